"""Mistakes in command lines of ``sb3-distrl`` end with one line that says what to do."""

from pathlib import Path

import pytest

from tests.zoo.commands import in_process, mistake, sb3_distrl

AGENT = ("--algo", "rainbow", "--env", "CartPole-v1")

# A sitecustomize for which packages are as if not installed
WITHOUT = """
import os
import sys


class Without:
    def __init__(self, finder):
        self.finder = finder

    def find_spec(self, name, path=None, target=None):
        hidden = name.partition(".")[0] in os.environ["HIDDEN"].split()
        return None if hidden else self.finder.find_spec(name, path, target)

    def __getattr__(self, name):
        return getattr(self.finder, name)


sys.meta_path[:] = [Without(finder) for finder in sys.meta_path]
"""


@pytest.fixture
def without(tmp_path: Path) -> str:
    """:return: PYTHONPATH with which the packages in HIDDEN cannot be imported"""
    folder = tmp_path / "site"
    folder.mkdir()
    (folder / "sitecustomize.py").write_text(WITHOUT)
    return str(folder)


@pytest.mark.parametrize(
    "arguments, expected",
    [
        (("trian",), "trian is not a command. Did you mean train?"),
        (("train", "--algo", "ranbow", "--env", "CartPole-v1"), "Did you mean rainbow?"),
        (("enjoy", "--algo", "iqm", "--env", "CartPole-v1"), "Did you mean iqn?"),
        (("train", "--algo", "iqn", "--env", "CartPol-v1"), "Did you mean CartPole-v1?"),
        (("train", "--algo", "iqn", "--env", "minatar/breakout-v1"), "Did you mean MinAtar/Breakout-v1?"),
        (("enjoy", "--algo", "iqn", "--env", "PongNoFrameskip-v5"), "Did you mean PongNoFrameskip-v4?"),
        (("train", *AGENT, "--entry", "CartPole-v2"), "Did you mean CartPole-v1?"),
        (("train", *AGENT, "--n-seeds", "0"), "must be at least 1"),
        (("train", *AGENT, "-params", "n_steps:0"), "n_steps=0 must be at least 1"),
        (("train", *AGENT, "--trial-id", "3"), "give --storage and --study-name too"),
        (("train", "--algo", "iqn", "--env", "Acrobot-v1", "--conf-file", "mine.yml"), "add an entry Acrobot-v1"),
    ],
)
def test_mistakes(tmp_path: Path, arguments: tuple[str, ...], expected: str) -> None:
    (tmp_path / "mine.yml").write_text("CartPole-v1:\n  policy: MlpPolicy\n")
    assert expected in mistake(tmp_path, *arguments)


def test_no_command_shows_help(tmp_path: Path) -> None:
    assert "usage: sb3-distrl COMMAND" in in_process(tmp_path)


@pytest.mark.slow
def test_missing_extra_zoo(tmp_path: Path, without: str) -> None:
    message = mistake(tmp_path, "train", *AGENT, PYTHONPATH=without, HIDDEN="rl_zoo3 plotly")
    assert "rl_zoo3, plotly not installed" in message and "pip install 'sb3-distrl[zoo]'" in message


@pytest.mark.slow
@pytest.mark.parametrize("command, env", [("train", "PongNoFrameskip-v4"), ("enjoy", "ALE/Pong-v5")])
def test_missing_extra_atari(tmp_path: Path, without: str, command: str, env: str) -> None:
    message = mistake(tmp_path, command, "--algo", "rainbow", "--env", env, PYTHONPATH=without, HIDDEN="ale_py")
    assert "pip install 'sb3-distrl[atari]'" in message


@pytest.mark.slow
def test_missing_extra_minatar(tmp_path: Path, without: str) -> None:
    train = ("train", "--algo", "iqn", "--env", "MinAtar/Breakout-v1", "-n", "100")
    assert "sb3-distrl[minatar]" in mistake(tmp_path, *train, PYTHONPATH=without, HIDDEN="minatar")


@pytest.mark.slow
def test_missing_extra_does_not_matter_to_others(tmp_path: Path, without: str) -> None:
    train = ("train", *AGENT, "-n", "100", "--eval-freq", "-1")
    sb3_distrl(tmp_path, *train, PYTHONPATH=without, HIDDEN="ale_py minatar cv2 numba ray")
