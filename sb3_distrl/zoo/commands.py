"""rl-zoo3's commands, each made to work with algorithms that it does not know, and without a screen."""

import argparse
import importlib
import os
import runpy
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from types import SimpleNamespace
from typing import Any

PLOTS = ("plot_train", "all_plots", "plot_from_file")


def train(parser: type[argparse.ArgumentParser]) -> None:
    """:param parser: of the command line"""
    module: Any = importlib.import_module("rl_zoo3.train")
    module.argparse = SimpleNamespace(ArgumentParser=parser)
    module.train()


def enjoy() -> None:
    """Watch or evaluate an agent."""
    importlib.import_module("rl_zoo3.enjoy").enjoy()


def plot(command: str) -> None:
    """
    Draw; where there is no screen to show figures on, save them in the working directory.

    :param command: one of PLOTS
    """
    from matplotlib import pyplot as plt

    def save(*args: Any, **kwargs: Any) -> None:
        for number in plt.get_fignums():
            figure = plt.figure(number)
            label = str(figure.get_label()).replace(" ", "_").replace("/", "_")
            path = Path(f"{command}_{label}.png" if label else f"{command}.png")
            figure.savefig(path, dpi=150)
            print(f"Saved {path}")

    if plt.get_backend().lower() == "agg":
        plt.show = save
    try:
        getattr(importlib.import_module("rl_zoo3.plots"), command)()
    except ValueError as error:
        if "empty sequence" not in str(error):
            raise
        raise ValueError(f"{command} needs at least two runs of each algorithm: train with other seeds too.") from error


def record_video() -> None:
    """Record a video of an agent."""
    runpy.run_module("rl_zoo3.record_video", run_name="__main__")


def record_training() -> None:
    """Record a video of the checkpoints of a training, by this library's record_video and a ffmpeg that is there."""
    call = subprocess.call

    def call_ours(command: list[str], *args: Any, **kwargs: Any) -> int:
        if command[:3] == ["python", "-m", "rl_zoo3.record_video"]:
            command = [sys.executable, "-m", "sb3_distrl.zoo", "record_video", *command[3:]]
        return call(command, *args, **kwargs)

    subprocess.call = call_ours  # type: ignore[assignment]
    with tempfile.TemporaryDirectory() as folder:
        if shutil.which("ffmpeg") is None:
            from imageio_ffmpeg import get_ffmpeg_exe  # which rl-zoo3 brings, under another name

            os.symlink(get_ffmpeg_exe(), Path(folder) / "ffmpeg")
            os.environ["PATH"] += os.pathsep + folder
        runpy.run_module("rl_zoo3.record_training", run_name="__main__")


def push_to_hub() -> None:
    """Upload an agent, with a model card whose commands work."""
    import huggingface_sb3.push_to_hub as helper
    from huggingface_hub import repocard

    if not hasattr(helper, "generate_metadata"):  # its name, and a dict, before sb3-team-hf-integration 3.2

        def generate_metadata(*args: Any) -> dict[str, Any]:
            return helper._generate_metadata(*args).to_dict()

        helper.generate_metadata = generate_metadata
    save = repocard.metadata_save

    def save_card(path: Path, metadata: dict[str, Any]) -> None:
        card = path.read_text(encoding="utf-8")
        card = card.replace("python -m rl_zoo3.", "sb3-distrl ").replace(
            "pip install rl_zoo3", "pip install 'sb3-distrl[zoo]'"
        )
        path.write_text(card, encoding="utf-8")
        save(path, metadata)

    repocard.metadata_save = save_card  # type: ignore[assignment]  # the last that is done to the card
    runpy.run_module("rl_zoo3.push_to_hub", run_name="__main__")


def load_from_hub() -> None:
    """Download an agent."""
    runpy.run_module("rl_zoo3.load_from_hub", run_name="__main__")
