"""The scripts that the README and docs/ name run as they say."""

import importlib.util
import re
import runpy
import subprocess
import sys
from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path
from statistics import NormalDist

import numpy as np
import pytest
import torch as th
from distributions import calibration, risky_choice
from learning import adam_eps
from PIL import Image
from stable_baselines3 import DQN

from sb3_distrl import IQN, QRDQN, Rainbow
from tests.zoo.commands import train_here

ROOT = Path(__file__).resolve().parent.parent


def run_script(command: str, *arguments: str) -> str:
    """
    :param command: what follows ``python scripts/``, which runs in this process
    :param arguments: of its command line
    :return: what it printed
    """
    script, *name = command.split()
    path = ROOT / "scripts" / script
    printed = StringIO()
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(printed):
        patch.setattr(sys, "argv", [str(path), *name, *arguments])
        patch.setattr(sys, "path", list(sys.path))
        runpy.run_path(str(path), run_name="__main__")
    return printed.getvalue()


@pytest.mark.parametrize("folder", ["apex", "benchmark", "distributions", "learning", "replay", "speed"])
def test_commands_have_help(folder: str) -> None:
    with pytest.raises(SystemExit, match=r"usage: python scripts/") as stopped:
        run_script(folder)
    commands = re.findall(r"[^{},]+", str(stopped.value).partition("{")[2].partition("}")[0])
    assert commands
    for command in commands:
        if command == "dopamine_step" and not importlib.util.find_spec("jax"):
            continue
        printed = StringIO()
        with redirect_stdout(printed), pytest.raises(SystemExit) as stopped:
            run_script(f"{folder} {command}", "--help")
        assert not stopped.value.code


@pytest.mark.slow
def test_demo_trains_evaluates_saves_and_draws(tmp_path: Path) -> None:
    """In processes of its own, as ``make demo`` does."""
    line = [sys.executable, str(ROOT / "scripts" / "demo.py"), "--steps", "2020", "--output", str(tmp_path)]
    result = subprocess.run(line, capture_output=True, text=True, timeout=1200)
    assert result.returncode == 0, result.stderr
    printed = result.stdout
    folder = tmp_path / "rainbow" / "CartPole-v1_1"
    model = Rainbow.load(folder / "CartPole-v1.zip")
    assert model.num_timesteps >= 2020 and model._n_updates > 0
    assert (folder / "best_model.zip").exists()
    assert (folder / "learning_curve.png").read_bytes().startswith(b"\x89PNG")
    assert "$ sb3-distrl train --algo rainbow --env CartPole-v1" in printed
    assert "Mean reward:" in printed
    assert "What to run next" in printed


@pytest.mark.slow
def test_pong_from_pixels() -> None:
    printed = run_script("speed pong", "--steps", "200", "--buffer-size", "400", "--learning-starts", "160", "--games", "0")
    assert "200 steps, 10 gradient steps" in printed
    assert "loaded model acts the same: True" in printed


@pytest.mark.slow
def test_settings_are_compared(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    train_here(monkeypatch)
    files = []
    for name, learning_rate in (("slow", 1e-5), ("fast", 1e-3)):
        files.append(tmp_path / f"{name}.yml")
        entry = (
            f"{{policy: MlpPolicy, n_timesteps: 300, learning_starts: 100, buffer_size: 300, learning_rate: {learning_rate}}}"
        )
        files[-1].write_text(f"CartPole-v1: {entry}\n")
    output = tmp_path / "result.md"
    arguments = ["--algo", "iqn", "--env", "CartPole-v1", "--conf-files", *map(str, files)]
    arguments += ["--seeds", "3", "4", "--episodes", "5", "--processes", "1"]
    arguments += ["--runs", str(tmp_path / "runs"), "--output", str(output)]
    (tmp_path / "runs" / "iqn" / "slow" / "3" / "iqn" / "CartPole-v1_1").mkdir(parents=True)  # of an interrupted run
    run_script("learning compare_settings", *arguments)
    rows = [line for line in output.read_text().splitlines() if line.startswith(("| slow.yml", "| fast.yml"))]
    assert [row.split(" | ")[1] for row in rows] == ["3", "4"] * 2
    models = sorted((tmp_path / "runs").glob("iqn/*/*/iqn/CartPole-v1_1/CartPole-v1.zip"))
    assert [IQN.load(model).learning_rate(1.0) for model in models] == [1e-3, 1e-3, 1e-5, 1e-5]
    before = [model.stat().st_mtime for model in models]
    run_script("learning compare_settings", *arguments)  # goes on where it was: nothing is left to train
    assert [model.stat().st_mtime for model in models] == before


@pytest.mark.slow
def test_collection_speed(tmp_path: Path) -> None:
    output = tmp_path / "result.md"
    run_script("speed collection", "--steps", "3", "--rounds", "2", "--n-envs", "2", "--output", str(output))
    text = output.read_text()
    rows = [
        line.split(" | ")[0].removeprefix("| ")
        for line in text.splitlines()
        if line.startswith("| ") and "steps/s" not in line
    ]
    assert rows[0] == "DummyVecEnv" and {"SubprocVecEnv", "AtariVecEnv", "ale-py alone"} < set(rows)
    assert "times the speed of SubprocVecEnv" in text and "of the time of ale-py alone" in text


@pytest.mark.slow
def test_speed_is_compared_with_installed_peers(tmp_path: Path) -> None:
    output = tmp_path / "speed.md"
    arguments = ["--threads", "1", "--rounds", "2", "--steps", "1", "--buffer", "200", "--output", str(output)]
    arguments += ["--parts", "learner", "end-to-end", "--families", "rainbow", "--pong-rounds", "1", "--pong-steps", "8"]
    run_script("speed gradient_steps", *arguments, "--contenders", "sb3_distrl", "CleanRL")
    result = output.read_text()
    assert "CleanRL is left out: give the path of its rainbow_atari.py" in result
    assert result.count("| sb3_distrl |") == 2  # a gradient step, and Pong


@pytest.mark.slow
def test_memory_is_compared(tmp_path: Path) -> None:
    output = tmp_path / "speed.md"
    arguments = ["--parts", "memory", "--families", "dqn", "--buffer", "200", "--output", str(output)]
    run_script("speed gradient_steps", *arguments, "--contenders", "SB3 DQN")
    assert "| dqn | SB3 DQN |" in output.read_text()


@pytest.mark.slow
def test_bare_floor_of_every_family() -> None:
    arguments = ["--rounds", "1", "--steps", "1", "--batch-size", "3", "--ways", "floor*bf16"]
    printed = run_script("speed floor", *arguments)
    rows = [line.split(" ms")[0].rsplit(maxsplit=1)[0] for line in printed.splitlines() if line.startswith("floor")]
    assert rows == ["floor, bf16"] * 4


@pytest.mark.slow
def test_overlap_speed(tmp_path: Path) -> None:
    output = tmp_path / "overlap.md"
    arguments = ["--tasks", "5 ms of sleep, SubprocVecEnv", "--n-envs", "2", "--steps", "10", "--rounds", "2"]
    run_script("speed overlap", *arguments, "--output", str(output))
    text = output.read_text()
    assert "2 environments" in text and text.count("the longest of collection, training") == 2


@pytest.mark.slow
def test_learning_is_compared(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    train_here(monkeypatch)
    output = tmp_path / "learning.md"
    arguments = ["--env", "CartPole-v1", "--steps", "1100", "--train-freq", "4", "--seeds", "1", "2", "--episodes", "1"]
    variants = ["--variants", "overlap", "overlap, bf16", "--runs", str(tmp_path / "runs"), "--processes", "1"]
    run_script("learning accelerated", *arguments, *variants, "--output", str(output))
    rows = [line for line in output.read_text().splitlines() if line.startswith("| overlap")]
    assert len(rows) == 2 and all(row.count("±") == 2 for row in rows)


def test_wasserstein_distance_by_hand() -> None:
    ends, middle = (np.array([0.0, 4.0]), np.array([0.5, 0.5])), (np.array([1.0]), np.array([1.0]))
    assert risky_choice.wasserstein(ends, ends) == 0
    assert risky_choice.wasserstein(ends, middle) == risky_choice.wasserstein(middle, ends) == 0.5 * 1 + 0.5 * 3


def test_discounted_returns_by_hand() -> None:
    assert calibration.discounted([1.0, 2.0, 4.0], 0.5).tolist() == [3.0, 4.0, 4.0]


def test_horizon_by_hand() -> None:
    assert 0.99 ** calibration.horizon(0.99) < 0.05 < 0.99 ** (calibration.horizon(0.99) - 1)
    assert calibration.horizon(0.5) == 5  # 1/2 + 1/4 + ... of the weights: 15/16 after 4, 31/32 after 5


def test_calibration_of_what_is_known() -> None:
    """Normal returns that are predicted are covered; with half the spread, the tails hold more than they should."""
    rng = np.random.default_rng(0)
    returns = rng.normal(size=2000)
    normal = np.array([NormalDist().inv_cdf(fraction) for fraction in calibration.FRACTIONS])
    below = {spread: returns[:, None] <= spread * normal for spread in (1.0, 0.5)}
    rest = (returns, returns, returns, np.arange(2000), 0.0)
    right, narrow = (calibration.Calibration("IQN", 0, below[spread], *rest) for spread in (1.0, 0.5))
    assert right.error < 0.02 < 0.05 < narrow.error
    assert narrow.coverage[0] > 0.15 and narrow.coverage[-1] < 0.85
    low, high = calibration.intervals(right)
    assert ((low <= calibration.FRACTIONS) & (calibration.FRACTIONS <= high)).mean() > 0.8


def test_calibration(tmp_path: Path) -> None:
    model = QRDQN("MlpPolicy", "CartPole-v1", learning_starts=50, buffer_size=200, seed=0, device="cpu").learn(100)
    for seed in range(2):
        model.save(tmp_path / f"qrdqn_CartPole-v1_{seed}")
    arguments = ["--env", "CartPole-v1", "--algos", "qrdqn", "--seeds", "0", "1", "--episodes", "3", "--models", str(tmp_path)]
    printed = run_script("distributions calibration", *arguments, "--output", str(tmp_path / "result.md"))
    rows = [line.split("|")[1:-1] for line in printed.splitlines() if line.startswith(("| QRDQN", "| **QRDQN"))]
    assert [row[0].strip() for row in rows] == ["QRDQN, seed 0", "QRDQN, seed 1", "**QRDQN, 2 seeds**"] * 2
    first, second, both = (row[-1] for row in rows[:3])  # their errors
    low, high = sorted((float(first), float(second)))
    mean, least, most = (float(number) for number in re.findall(r"[\d.]+", both))
    assert (least, most) == (low, high) and abs(mean - (low + high) / 2) < 1e-3
    assert (tmp_path / "result.png").exists()
    film = Image.open(tmp_path / "result.gif")
    assert film.n_frames > 1


def test_adam_eps_reads_the_gradients_of_a_saved_model(tmp_path: Path) -> None:
    model = DQN("MlpPolicy", "CartPole-v1", learning_starts=10, train_freq=(12, "step"), learning_rate=0.003)
    model.learn(12)  # one gradient step, after which Adam's estimates are the squares of these gradients
    model.save(tmp_path / "model")
    sizes, eps, learning_rate = adam_eps.gradients(tmp_path / "model.zip")
    expected = [p.grad.abs().flatten() for p in model.policy.parameters() if p.grad is not None]
    th.testing.assert_close(sizes, th.cat(expected))
    assert (eps, learning_rate) == (1e-8, 0.003)
    arguments = [f"DQN={tmp_path / 'model.zip'}", "--output", str(tmp_path / "result.md")]
    speed, none = (sizes / (sizes + eps)).median(), f"{(sizes < 1e-8).float().mean():.0%}"  # eps is 1e-8, too
    row = f"| DQN | 0.003 | 1e-08 | {sizes.median():.2g} | {speed:.2g} | {none} | {none} |"
    assert row in run_script("learning adam_eps", *arguments)

    DQN("MlpPolicy", "CartPole-v1", policy_kwargs=dict(optimizer_class=th.optim.RMSprop)).save(tmp_path / "other")
    with pytest.raises(ValueError, match="has no estimates of Adam: name a model that was trained with it"):
        adam_eps.gradients(tmp_path / "other.zip")
