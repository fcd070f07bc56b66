"""rl-zoo3's command line, run in the process of the test and in an empty folder."""

import argparse
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import rl_zoo3.train

from sb3_distrl.zoo import cli, register
from sb3_distrl.zoo.experiment import Experiment

register()

# Of a run that is over at once
QUICK = dict(learning_starts=20, train_freq=2, gradient_steps=1, batch_size=16, buffer_size=1000)
ALWAYS = ["--eval-freq", "-1", "--seed", "3", "--device", "cpu"]


class SetUp(Exception):
    """The experiment is set up, which is all that the test wants."""


class Command:
    """
    ``sb3-distrl``; what it made is in ``experiment`` and ``model``.

    :param monkeypatch: undoes what it changes
    """

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.experiment: Any = None
        self.model: Any = None
        self._set_up_only = False
        self._monkeypatch = monkeypatch
        monkeypatch.setattr(rl_zoo3.train, "argparse", argparse)
        set_up = Experiment.setup_experiment

        def watched(experiment: Experiment) -> Any:
            self.experiment, results = experiment, set_up(experiment)
            self.model = results and results[0]
            if self._set_up_only:
                raise SetUp
            return results

        monkeypatch.setattr(Experiment, "setup_experiment", watched)

    def __call__(self, *arguments: str) -> None:
        """:param arguments: of ``sb3-distrl``"""
        self._monkeypatch.setattr(sys, "argv", ["sb3-distrl", *arguments])
        cli.main()

    def plain(self, manager: type, *arguments: str) -> None:
        """
        Run ``rl_zoo3.train`` as it is.

        :param manager: of experiments
        :param arguments: of it
        """
        with self._monkeypatch.context() as patch:
            patch.setattr(sys, "argv", ["train", *arguments])
            patch.setattr(rl_zoo3.train, "argparse", argparse)  # which cli.main() replaces
            patch.setattr(rl_zoo3.train, "ExperimentManager", manager)
            rl_zoo3.train.train()

    def train(self, algo: str, *arguments: str, env: str = "CartPole-v1", **settings: Any) -> Any:
        """
        :param algo: to train
        :param arguments: others
        :param env: to train on
        :param settings: hyperparameters
        :return: the model
        """
        own = ["-params", *(f"{name}:{value!r}" for name, value in settings.items())] if settings else []
        self("train", "--algo", algo, "--env", env, *ALWAYS, *arguments, *own)
        return self.model

    def prepare(self, *arguments: str, **settings: Any) -> Any:
        """:return: the experiment that :meth:`train` would run"""
        self._set_up_only = True
        with pytest.raises(SetUp):
            self.train(*arguments, **settings)
        self._set_up_only = False
        return self.experiment


@pytest.fixture
def command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Command:
    monkeypatch.chdir(tmp_path)
    return Command(monkeypatch)


@pytest.fixture
def config(tmp_path: Path) -> Callable[[str], list[str]]:
    """Writes a file of hyperparameters; the arguments that make a command read it."""

    def write(text: str) -> list[str]:
        (tmp_path / "own.yml").write_text(text)
        return ["-conf", str(tmp_path / "own.yml")]

    return write
