"""rl-zoo3's commands, adapted to this library's algorithms and to machines without a display."""

import argparse
import importlib
import os
import runpy
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

PLOTS = ("plot_train", "all_plots", "plot_from_file")


def train(parser: type[argparse.ArgumentParser]) -> None:
    """Train, or tune hyperparameters, with this parser class."""
    module: Any = importlib.import_module("rl_zoo3.train")
    module.argparse = SimpleNamespace(ArgumentParser=parser)
    module.train()


def enjoy(parser: type[argparse.ArgumentParser]) -> None:
    """Watch or evaluate an agent, with this parser class."""
    expect_hub_errors()
    module: Any = importlib.import_module("rl_zoo3.enjoy")
    module.argparse = SimpleNamespace(ArgumentParser=parser)
    module.enjoy()


def plot_distribution() -> None:
    """Draw the distributions of returns of an agent."""
    with ffmpeg():
        importlib.import_module("sb3_distrl.zoo.plot_distribution").main()


def plot(command: str) -> None:
    """Run one of PLOTS; without a display, save the figures in the working directory."""
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
    except FileNotFoundError as error:
        raise ValueError(f"{error.filename} does not exist: use a file or folder that train or all_plots wrote.") from error
    except ValueError as error:
        if "empty sequence" not in str(error):
            raise
        raise ValueError(
            f"{command} needs at least two runs of each algorithm, of equal length: train with other seeds too."
        ) from error


def record_video() -> None:
    """Record a video of an agent."""
    runpy.run_module("rl_zoo3.record_video", run_name="__main__")


def record_training() -> None:
    """Record a video of a training run's checkpoints, with this library's record_video."""
    call = subprocess.call

    def call_ours(command: list[str], *args: Any, **kwargs: Any) -> int:
        if command[:3] == ["python", "-m", "rl_zoo3.record_video"]:
            command = [sys.executable, "-m", "sb3_distrl.zoo", "record_video", *command[3:]]
        return call(command, *args, **kwargs)

    subprocess.call = call_ours  # type: ignore[assignment]
    with ffmpeg():
        runpy.run_module("rl_zoo3.record_training", run_name="__main__")


@contextmanager
def ffmpeg() -> Iterator[None]:
    """Provide the program ffmpeg; if it is not installed, that of imageio-ffmpeg, which rl-zoo3 requires."""
    with tempfile.TemporaryDirectory() as folder:
        if shutil.which("ffmpeg") is None:
            from imageio_ffmpeg import get_ffmpeg_exe

            os.symlink(get_ffmpeg_exe(), Path(folder) / "ffmpeg")
            os.environ["PATH"] += os.pathsep + folder
        yield


def push_to_hub() -> None:
    """Upload an agent, with a model card whose commands work."""
    from huggingface_hub import repocard

    helper = importlib.import_module("huggingface_sb3.push_to_hub")  # its package has a function of the same name
    if not hasattr(helper, "generate_metadata"):  # before sb3-team-hf-integration 3.2 it had this name and returned a dict

        def generate_metadata(*args: Any) -> dict[str, Any]:
            return helper._generate_metadata(*args).to_dict()

        helper.generate_metadata = generate_metadata  # type: ignore[attr-defined]
    save = repocard.metadata_save

    def save_card(path: Path, metadata: dict[str, Any]) -> None:
        card = path.read_text(encoding="utf-8")
        card = card.replace("python -m rl_zoo3.", "sb3-distrl ").replace(
            "pip install rl_zoo3", "pip install 'sb3-distrl[zoo]'"
        )
        path.write_text(card, encoding="utf-8")
        save(path, metadata)

    repocard.metadata_save = save_card  # type: ignore[assignment]  # the last function that changes the card
    with ffmpeg():
        runpy.run_module("rl_zoo3.push_to_hub", run_name="__main__")


def expect_hub_errors() -> None:
    """Convert the Hub's errors to those that rl-zoo3 expects, which huggingface_hub raised before version 1."""
    import huggingface_sb3
    from huggingface_hub.errors import HfHubHTTPError
    from requests.exceptions import HTTPError

    load = huggingface_sb3.load_from_hub

    def load_from_hub(*args: Any, **kwargs: Any) -> Any:
        try:
            return load(*args, **kwargs)
        except HfHubHTTPError as error:
            raise HTTPError(str(error)) from error

    huggingface_sb3.load_from_hub = load_from_hub


def load_from_hub() -> None:
    """Download an agent."""
    expect_hub_errors()
    runpy.run_module("rl_zoo3.load_from_hub", run_name="__main__")
