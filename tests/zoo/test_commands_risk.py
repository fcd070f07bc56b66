"""sb3-distrl with risk: enjoy --risk, a risk in training, and plot_distribution."""

from pathlib import Path

import pytest
from PIL import Image

from tests.zoo.commands import in_process

AGENT = ("--algo", "iqn", "--env", "RiskyCrossing-v0")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """:return: a folder with an agent, trained with a risk measure"""
    folder = tmp_path_factory.mktemp("risk")
    arguments = ("-n", "300", "--eval-freq", "-1", "-params", "risk:'cvar:0.5'", "learning_starts:100")
    in_process(folder, "train", *AGENT, *arguments)
    return folder


def test_enjoy_with_risk(folder: Path) -> None:
    assert "Mean reward" in in_process(folder, "enjoy", *AGENT, "--no-render", "-n", "120", "--risk", "wang:-0.75")


def test_plot_distribution_acts_by_the_risk_that_was_saved(folder: Path) -> None:
    printed = in_process(folder, "plot_distribution", *AGENT)
    assert "Saved distribution_iqn_RiskyCrossing-v0.png" in printed and "risk=cvar:0.5" in printed
    assert Image.open(folder / "distribution_iqn_RiskyCrossing-v0.png").width > 400


def test_film(folder: Path) -> None:
    options = ("--risk", "norm", "--action-names", "on", "turn", "-n", "6", "--stochastic", "-o", "film.gif")
    assert "risk=norm:3" in in_process(folder, "plot_distribution", *AGENT, *options)
    assert Image.open(folder / "film.gif").n_frames > 1


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("enjoy", *AGENT, "--risk", "averse"), "'averse' is unknown: use one of mean"),
        (("enjoy", "--algo", "ppo", "--env", "RiskyCrossing-v0", "-f", ".", "--risk", "cpw"), "not for ppo"),
        (("plot_distribution", *AGENT, "-o", "x.jpeg"), "--output x.jpeg must end with one of .png"),
        (("plot_distribution", *AGENT, "--action-names", "on"), "must be 2 names, one for each action"),
        (("plot_distribution", *AGENT, "--risk", "cvar"), "risk='cvar' has no level"),
        (("plot_distribution", "--algo", "ppo", "--env", "RiskyCrossing-v0"), "invalid choice: 'ppo'"),
        (("plot_distribution", "--algo", "qrdqn", "--env", "RiskyCrossing-v0"), "was not found"),
    ],
)
def test_mistakes(arguments: tuple[str, ...], says: str, folder: Path) -> None:
    assert says in in_process(folder, *arguments, code=2)
