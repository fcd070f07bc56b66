"""sb3-distrl train with actors, as a user types it; with those of Ray in processes of its own."""

from pathlib import Path

import numpy as np
import pytest
from stable_baselines3.common.results_plotter import load_results

from tests.zoo.commands import in_process, mistake, sb3_distrl

SHORT = ["-params", "learning_starts:100", "buffer_size:5000", "n_actors:2", "cpus_per_actor:0.5"]
OPTIONS = ["--algo", "apex-rainbow", "--env", "CartPole-v1", "--seed", "3"]
TRAIN = ["train", *OPTIONS, "-n", "600", "--eval-freq", "200", "--eval-episodes", "1", "--save-replay-buffer", *SHORT]


def check_run(folder: Path, log: str) -> None:
    """:param log: of a run with TRAIN: evaluations are where they are without actors, and so are episodes of all actors"""
    run = folder / "logs" / "apex-rainbow" / "CartPole-v1_1"
    assert "Interrupted" not in log
    assert np.load(run / "evaluations.npz")["timesteps"].tolist() == [200, 400, 600]
    episodes = load_results(str(run))
    assert len(episodes) > 10 and 400 < episodes["l"].sum() <= 600


def test_train_plot_enjoy_and_go_on(tmp_path):
    check_run(tmp_path, in_process(tmp_path, *TRAIN, "collector:'local'"))
    in_process(tmp_path, "plot_train", "-a", "apex-rainbow", "-e", "CartPole-v1", "-f", "logs")
    assert list(tmp_path.glob("plot_train*.png"))
    watched = in_process(tmp_path, "enjoy", "--algo", "apex-rainbow", "--env", "CartPole-v1", "--no-render", "-n", "300")
    assert "Mean reward" in watched or "Episode Reward" in watched
    run = tmp_path / "logs" / "apex-rainbow" / "CartPole-v1_1"
    going_on = in_process(tmp_path, "train", *OPTIONS, "-i", str(run / "CartPole-v1.zip"), "-n", "200", "--eval-freq", "-1")
    assert "Resuming after 600 steps, for 200 more" in going_on
    assert (tmp_path / "logs" / "apex-rainbow" / "CartPole-v1_2" / "CartPole-v1.zip").exists()


@pytest.mark.slow
def test_train_with_ray(tmp_path):
    pytest.importorskip("ray")
    check_run(tmp_path, sb3_distrl(tmp_path, *TRAIN))


def test_mistakes(tmp_path):
    options = ["train", "--algo", "apex-iqn", "--env", "CartPole-v1"]
    assert "cannot be tuned: tune it without actors" in mistake(tmp_path, *options, "-optimize", "--n-trials", "1")
    assert "VecNormalize" in mistake(tmp_path, *options, "-n", "100", "-params", "normalize:True", "collector:'local'")
    assert not Path(tmp_path, "logs", "apex-iqn", "CartPole-v1_1", "CartPole-v1.zip").exists()


@pytest.mark.slow
def test_more_actors_than_fit(tmp_path):
    pytest.importorskip("ray")
    options = ["train", "--algo", "apex-iqn", "--env", "CartPole-v1", "-n", "100", "-params", "n_actors:99"]
    assert "need 99 processors" in mistake(tmp_path, *options, OMP_NUM_THREADS="1")
    assert not Path(tmp_path, "logs", "apex-iqn", "CartPole-v1_1", "CartPole-v1.zip").exists()
