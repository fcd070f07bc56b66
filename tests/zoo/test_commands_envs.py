"""``sb3-distrl`` with other environments and algorithms: Atari, MinAtar, and those that rl-zoo3 has by itself."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from sb3_distrl import QRDQN, Rainbow
from tests.zoo.commands import in_process, saved

NO_EVALUATION = ("--eval-freq", "-1")
SMALL = ("learning_starts:100", "buffer_size:400")


def run_of(folder: Path, algo: str, env: str) -> Path:
    """
    :param folder: working directory
    :param algo: name of the algorithm
    :param env: name of the environment, for files
    :return: where its first run is
    """
    return folder / "logs" / algo / f"{env}_1"


def enjoy(folder: Path, algo: str, env: str, n: int = 50) -> str:
    """
    :param folder: working directory
    :param algo: name of the algorithm
    :param env: name of the environment
    :param n: steps
    :return: what was printed
    """
    return in_process(folder, "enjoy", "--algo", algo, "--env", env, "-f", "logs", "--no-render", "-n", str(n))


@pytest.mark.parametrize("algo", ["ppo", "dqn"])
def test_algorithms_of_rl_zoo3(tmp_path: Path, algo: str) -> None:
    params = ("n_envs:2", "n_steps:32") if algo == "ppo" else ("learning_starts:100", "gradient_steps:2")
    options = ("-n", "200", "--eval-freq", "100", "--eval-episodes", "1", "-params", *params)
    in_process(tmp_path, "train", "--algo", algo, "--env", "CartPole-v1", *options)
    model = saved(run_of(tmp_path, algo, "CartPole-v1") / "CartPole-v1.zip")
    assert not model["policy_class"]["__module__"].startswith("sb3_distrl")
    assert "Mean reward" in enjoy(tmp_path, algo, "CartPole-v1", 600)


def test_qrdqn_is_this_librarys(tmp_path: Path) -> None:
    options = (
        "-n",
        "300",
        *NO_EVALUATION,
        "-params",
        "learning_starts:100",
        "train_freq:20",
        "gradient_steps:2",
        "prioritized:True",
        "n_steps:2",
    )
    in_process(tmp_path, "train", "--algo", "qrdqn", "--env", "CartPole-v1", *options)
    file = run_of(tmp_path, "qrdqn", "CartPole-v1") / "CartPole-v1.zip"
    model = saved(file)
    assert model["n_steps"] == 2 and model["prioritized"]  # sb3-contrib's has neither
    assert "Mean reward" in enjoy(tmp_path, "qrdqn", "CartPole-v1", 600)
    assert QRDQN.load(file).num_timesteps == 300


def test_minatar(tmp_path: Path) -> None:
    options = ("-n", "200", "--eval-freq", "100", "--eval-episodes", "1", "-params", *SMALL)
    in_process(tmp_path, "train", "--algo", "iqn", "--env", "MinAtar/Breakout-v1", *options)
    assert (run_of(tmp_path, "iqn", "MinAtar-Breakout-v1") / "best_model.zip").is_file()
    assert "Mean reward" in enjoy(tmp_path, "iqn", "MinAtar/Breakout-v1", 300)


@pytest.mark.slow
def test_minatar_in_processes(tmp_path: Path) -> None:
    options = ("-n", "200", *NO_EVALUATION, "--vec-env", "subproc", "-params", "n_envs:2", *SMALL)
    in_process(tmp_path, "train", "--algo", "rainbow", "--env", "MinAtar/Breakout-v1", *options)
    run = run_of(tmp_path, "rainbow", "MinAtar-Breakout-v1")
    assert {path.name for path in run.glob("*.monitor.csv")} == {"0.monitor.csv", "1.monitor.csv"}
    record = ("record_video", "--algo", "rainbow", "--env", "MinAtar/Breakout-v1", "-f", "logs", "-n", "20", "--n-envs", "2")
    in_process(tmp_path, *record)
    assert len(list((run / "videos").glob("*.mp4"))) == 1


def size(thing: Any, seen: set[int], depth: int = 0) -> int:
    """:return: bytes of the arrays in an object of SB3 or this library"""
    if id(thing) in seen or depth > 6:
        return 0
    seen.add(id(thing))
    if isinstance(thing, np.ndarray):
        return thing.nbytes if any(thing.strides) else 0  # zeros that take no memory
    if isinstance(thing, (list, tuple)):
        return sum(size(item, seen, depth + 1) for item in thing)
    if isinstance(thing, dict):
        return sum(size(item, seen, depth + 1) for item in thing.values())
    if type(thing).__module__.startswith(("sb3_distrl", "stable_baselines3")):
        return size(vars(thing), seen, depth + 1) if hasattr(thing, "__dict__") else 0
    return 0


@pytest.mark.parametrize(
    "env, vec_env", [("ALE/Pong-v5", "dummy"), pytest.param("PongNoFrameskip-v4", "subproc", marks=pytest.mark.slow)]
)
def test_atari(tmp_path: Path, env: str, vec_env: str) -> None:
    options = ("-n", "160", *NO_EVALUATION, "--vec-env", vec_env, "-params", "n_envs:2", "train_freq:20", *SMALL)
    printed = in_process(tmp_path, "train", "--algo", "rainbow", "--env", env, *options)
    name = env.replace("/", "-")
    run = run_of(tmp_path, "rainbow", name)
    config = yaml.safe_load((run / name / "config.yml").read_text())
    assert config["frame_stack"] == 4 and config["buffer_size"] == 400
    # 4 frames a step, by the wrapper alone
    assert config.get("env_kwargs") == ({"frameskip": 1} if env.startswith("ALE/") else None)
    assert ("frameskip=1" in printed) == env.startswith("ALE/")
    assert "Stacking 4 frames" in enjoy(tmp_path, "rainbow", env)
    # What enjoy loads would have room for a million transitions, and takes none
    model = Rainbow.load(run / f"{name}.zip", buffer_size=1_000_000)
    assert model.buffer_size == 1_000_000
    assert size(model.replay_buffer, set()) < 10_000_000
