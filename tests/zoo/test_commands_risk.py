"""sb3-distrl with risk: enjoy --risk, a risk in training, and plot_distribution."""

from pathlib import Path

import pytest
from PIL import Image

from tests.zoo.commands import mistake, python, sb3_distrl

AGENT = ("--algo", "iqn", "--env", "RiskyCrossing-v0")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """:return: a folder with an agent, trained with a risk measure"""
    folder = tmp_path_factory.mktemp("risk")
    arguments = ("-n", "300", "--eval-freq", "-1", "-params", "risk:'cvar:0.5'", "learning_starts:100")
    sb3_distrl(folder, "train", *AGENT, *arguments)
    return folder


def test_the_risk_of_training_is_saved(folder: Path) -> None:
    path = "logs/iqn/RiskyCrossing-v0_1/RiskyCrossing-v0.zip"
    assert python(f"from sb3_distrl import IQN; print(IQN.load({path!r}).risk)", folder) == "cvar:0.5"


def test_enjoy_with_risk(folder: Path) -> None:
    printed = sb3_distrl(folder, "enjoy", *AGENT, "--no-render", "-n", "120", "--risk", "wang:-0.75")
    assert "Mean reward" in printed
    assert "--risk" in sb3_distrl(folder, "enjoy", "--help")
    assert "'averse' is unknown: use one of mean" in mistake(folder, "enjoy", *AGENT, "--risk", "averse")
    assert "not for ppo" in mistake(folder, "enjoy", "--algo", "ppo", "--env", "RiskyCrossing-v0", "-f", ".", "--risk", "cpw")


def test_plot_distribution(folder: Path) -> None:
    printed = sb3_distrl(folder, "plot_distribution", *AGENT)
    assert "Saved distribution_iqn_RiskyCrossing-v0.png" in printed and "risk=cvar:0.5" in printed
    assert Image.open(folder / "distribution_iqn_RiskyCrossing-v0.png").width > 400
    options = ("--risk", "norm", "--action-names", "on", "turn", "-n", "6", "--stochastic", "-o", "film.gif")
    assert "risk=norm:3" in sb3_distrl(folder, "plot_distribution", *AGENT, *options)
    assert Image.open(folder / "film.gif").n_frames > 1


def test_mistakes_of_plot_distribution(folder: Path) -> None:
    assert "--output x.jpeg must end with" in mistake(folder, "plot_distribution", *AGENT, "-o", "x.jpeg")
    assert "must be 2, a name for each action" in mistake(folder, "plot_distribution", *AGENT, "--action-names", "on")
    assert "invalid choice: 'ppo'" in mistake(folder, "plot_distribution", "--algo", "ppo", "--env", "RiskyCrossing-v0")
    assert "was not found" in mistake(folder, "plot_distribution", "--algo", "qrdqn", "--env", "RiskyCrossing-v0")
