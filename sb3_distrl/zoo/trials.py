"""Trials of a study: loading one by its number, and scoring by the mean over several seeds."""

from typing import Any

import numpy as np
import optuna
from optuna.storages import BaseStorage, JournalStorage
from optuna.storages.journal import JournalFileBackend
from rl_zoo3.hyperparams_opt import HYPERPARAMS_CONVERTER

from sb3_distrl.zoo.entries import Hyperparams


def load_study(storage: str, study_name: str) -> optuna.Study:
    opened: str | BaseStorage = JournalStorage(JournalFileBackend(storage)) if storage.endswith(".log") else storage
    try:
        return optuna.load_study(study_name=study_name, storage=opened)
    except KeyError as error:
        raise ValueError(f"study_name={study_name} is not in storage={storage}: use the name of a study in it.") from error


def read_trial(algo: str, storage: str | None, study_name: str | None, trial_id: int) -> Hyperparams:
    """:return: the hyperparameters of a trial"""
    if not (storage and study_name):
        raise ValueError(f"trial_id={trial_id} needs a study: give --storage and --study-name too.")
    trials = load_study(storage, study_name).get_trials(deepcopy=False)
    if not 0 <= trial_id < len(trials) or not trials[trial_id].params:
        raise ValueError(
            f"trial_id={trial_id} is not a trial with parameters of study {study_name}, which has {len(trials)} trials: "
            "use the number of such a trial."
        )
    print(f"Loading trial {trial_id} of study {study_name}")
    return HYPERPARAMS_CONVERTER[algo](trials[trial_id].params)


class SeedTrial:
    """A trial for the run of one seed, which reports the mean score of this and the previous seeds."""

    def __init__(self, trial: optuna.Trial, scores: list[float], last_step: int, policy: str) -> None:
        self._trial, self._scores, self._first_step = trial, list(scores), last_step
        self.last_step = last_step
        self.policy = policy  # its name, for samplers
        self.number = f"{trial.number}_seed_{len(scores)}" if scores else trial.number  # names the folder of its logs

    def report(self, value: float, step: int) -> None:
        self.last_step = self._first_step + step
        self._trial.report(float(np.mean([*self._scores, value])), self.last_step)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._trial, name)
