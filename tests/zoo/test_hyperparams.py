"""Every entry of hyperparams/ trains, and says where its numbers come from."""

import math
import re
import sys
from pathlib import Path

import pytest
import yaml

from sb3_distrl import IQN, QRDQN, Rainbow
from sb3_distrl.distributed import ApeXIQN, ApeXQRDQN, ApeXRainbow
from sb3_distrl.networks import DataEfficientConv, MinAtarConv
from sb3_distrl.zoo import cli
from sb3_distrl.zoo.entries import hyperparams_file, read_entries

ALGORITHMS = {"rainbow": Rainbow, "iqn": IQN, "qrdqn": QRDQN}
WITH_ACTORS = {"apex-rainbow": ApeXRainbow, "apex-iqn": ApeXIQN, "apex-qrdqn": ApeXQRDQN}
ENTRIES = {algo: read_entries(str(hyperparams_file(algo))) for algo in (*ALGORITHMS, *WITH_ACTORS)}
NAMED = {  # entries that are no environments: one to train them in
    "default": "CartPole-v1",
    "atari": "PongNoFrameskip-v4",
    "atari-8-envs": "PongNoFrameskip-v4",
    "atari-100k": "BreakoutNoFrameskip-v4",
    "minatar": "MinAtar/Breakout-v1",
}
EXPECTED = {"default", "atari", "atari-8-envs", "atari-100k", "minatar"} | {
    f"{name}" for name in ("CartPole-v1", "Acrobot-v1", "MountainCar-v0", "LunarLander-v3")
}

TRAINED = 16  # transitions after learning_starts; gradient steps of Atari's networks are what takes time


def cases(algorithms):
    """:return: an algorithm and one of its entries each; contributors run those that take a second"""
    quick = ("CartPole-v1", "minatar")
    pairs = [(algo, entry) for algo in algorithms for entry in ENTRIES[algo]]
    return [pytest.param(*pair, marks=() if pair[1] in quick else pytest.mark.slow) for pair in pairs]


def train(monkeypatch, folder, *arguments):
    monkeypatch.chdir(folder)
    monkeypatch.setattr(sys, "argv", ["sb3-distrl", "train", "--eval-freq", "-1", "--seed", "0", *arguments])
    cli.main()


@pytest.mark.parametrize("algo", ALGORITHMS)
def test_entries_are_there(algo):
    assert ENTRIES[algo].keys() >= EXPECTED


@pytest.mark.parametrize(("algo", "entry"), cases(ALGORITHMS))
def test_entry_trains(algo, entry, tmp_path, monkeypatch):
    """With a small replay, and in the first steps, as it stands; batches are small only where there are hundreds of them."""
    settings = ENTRIES[algo][entry]
    train_freq, n_envs = settings["train_freq"], settings.get("n_envs", 1)
    steps = max(80, 2 * train_freq)
    overrides = ["buffer_size:2000", f"learning_starts:{max(steps - TRAINED, train_freq)}"]
    if train_freq > 100:
        overrides.append("batch_size:16")
    env_id = NAMED.get(entry, entry)
    arguments = ["--algo", algo, "--env", env_id, "-n", str(steps), "-params", *overrides]
    if entry in NAMED:
        arguments += ["--entry", entry]
    train(monkeypatch, tmp_path, *arguments)
    (path,) = Path("logs", algo).glob(f"*/{env_id.replace('/', '-')}.zip")
    model = ALGORITHMS[algo].load(path)
    assert steps <= model.num_timesteps < steps + n_envs * train_freq
    assert model._n_updates > 0
    assert all(parameter.isfinite().all() for parameter in model.policy.parameters())
    if settings["policy"] == "CnnPolicy":
        features = {"atari-100k": DataEfficientConv, "minatar": MinAtarConv}.get(entry)
        assert features is None or model.policy.features_extractor_class is features
    if "replay_ratio" in settings:  # 8 environments: 16 transitions after learning_starts, a gradient step for each 4
        assert model._n_updates == pytest.approx(TRAINED * settings["replay_ratio"], abs=n_envs * settings["replay_ratio"])


@pytest.mark.parametrize(("algo", "entry"), cases(WITH_ACTORS))
def test_entry_trains_with_actors(algo, entry, tmp_path, monkeypatch):
    """In this process; with Ray, see test_actors.py. As above, gradient steps are for the last transitions."""
    settings = ENTRIES[algo][entry]
    env_id = NAMED.get(entry, entry)
    n_envs = settings["n_actors"] * settings.get("n_envs", 1)
    trained = math.ceil(TRAINED / n_envs) * n_envs  # transitions
    steps = (5 * math.ceil(trained / n_envs / 5) + 5) * n_envs
    overrides = ["buffer_size:8000", f"learning_starts:{steps - trained}", "block_steps:5", "collector:'local'"]
    arguments = ["--algo", algo, "--env", env_id, "-n", str(steps), "-params", *overrides]
    if entry in NAMED:
        arguments += ["--entry", entry]
    train(monkeypatch, tmp_path, *arguments)
    (path,) = Path("logs", algo).glob(f"*/{env_id.replace('/', '-')}.zip")
    model = WITH_ACTORS[algo].load(path)
    assert model.num_timesteps == steps and model.n_envs == n_envs and model.prioritized
    assert model._n_updates == pytest.approx(trained * settings["replay_ratio"], abs=1)


@pytest.mark.parametrize(("env_id", "entry"), [("MinAtar/Freeway-v0", "minatar"), ("FrozenLake-v1", "default")])
def test_environments_that_are_not_listed(env_id, entry, tmp_path, monkeypatch, capsys):
    arguments = ["--algo", "rainbow", "--env", env_id, "-n", "150", "-params", "buffer_size:2000", "learning_starts:100"]
    train(monkeypatch, tmp_path, *arguments)
    assert f"Using the entry '{entry}'" in capsys.readouterr().out


@pytest.mark.parametrize("algo", ENTRIES)
def test_entries_say_where_they_come_from(algo):
    text = hyperparams_file(algo).read_text()
    lines = text.splitlines()
    for entry in yaml.safe_load(text):
        (line,) = (i for i, line in enumerate(lines) if re.fullmatch(rf"{re.escape(entry)}:( &\w+)?", line))
        assert lines[line - 1].startswith("# "), entry
