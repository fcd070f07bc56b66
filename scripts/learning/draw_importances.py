"""The importance of each hyperparameter in one or more studies by sb3-distrl train -optimize."""

import argparse
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import optuna
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend

from sb3_distrl.zoo.study import importances


def main(arguments: list[str]) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--storages", nargs="+", required=True, help="files of studies, ending with .log")
    parser.add_argument("--study-names", nargs="+", required=True)
    parser.add_argument("--output", type=Path, required=True, help="PNG file")
    args = parser.parse_args(arguments)

    figure, axes = plt.subplots(
        1, len(args.storages), figsize=(4.2 * len(args.storages), 3.6), layout="constrained", squeeze=False
    )
    for ax, storage, name in zip(axes[0], args.storages, args.study_names, strict=True):
        study = optuna.load_study(study_name=name, storage=JournalStorage(JournalFileBackend(storage)))
        weights = importances(study)
        ax.barh(list(weights)[::-1], list(weights.values())[::-1], color="#0072B2")
        ax.set(title=name, xlabel="importance, as Optuna estimates it", xlim=(0, 1))
    figure.savefig(args.output, dpi=110)
    print(f"Saved {args.output}")
