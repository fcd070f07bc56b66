"""sb3-distrl train with actors of Ray, as a user types it."""

from pathlib import Path

import numpy as np
import pytest
from stable_baselines3.common.results_plotter import load_results

from tests.zoo.commands import mistake, sb3_distrl

pytest.importorskip("ray")

SHORT = ["-params", "learning_starts:100", "buffer_size:5000", "n_actors:2", "cpus_per_actor:0.5"]


def test_train_plot_enjoy_and_go_on(tmp_path):
    """Evaluations are where they are without actors, and episodes of all actors are where plots look for them."""
    options = ["--algo", "apex-rainbow", "--env", "CartPole-v1", "--seed", "3"]
    log = sb3_distrl(
        tmp_path, "train", *options, "-n", "1200", "--eval-freq", "400", "--eval-episodes", "1", "--save-replay-buffer", *SHORT
    )
    run = tmp_path / "logs" / "apex-rainbow" / "CartPole-v1_1"
    assert "Interrupted" not in log
    assert np.load(run / "evaluations.npz")["timesteps"].tolist() == [400, 800, 1200]
    episodes = load_results(str(run))
    assert len(episodes) > 20 and 900 < episodes["l"].sum() <= 1200
    sb3_distrl(tmp_path, "plot_train", "-a", "apex-rainbow", "-e", "CartPole-v1", "-f", "logs")
    assert list(tmp_path.glob("plot_train*.png"))
    watched = sb3_distrl(tmp_path, "enjoy", "--algo", "apex-rainbow", "--env", "CartPole-v1", "--no-render", "-n", "300")
    assert "Mean reward" in watched or "Episode Reward" in watched
    going_on = sb3_distrl(tmp_path, "train", *options, "-i", str(run / "CartPole-v1.zip"), "-n", "400", "--eval-freq", "-1")
    assert "Going on after 1,200 steps, for 400 more" in going_on
    assert (tmp_path / "logs" / "apex-rainbow" / "CartPole-v1_2" / "CartPole-v1.zip").exists()


def test_mistakes(tmp_path):
    options = ["train", "--algo", "apex-iqn", "--env", "CartPole-v1"]
    assert "need 99 processors" in mistake(tmp_path, *options, "-n", "100", "-params", "n_actors:99")
    assert "cannot be tuned: tune it without actors" in mistake(tmp_path, *options, "-optimize", "--n-trials", "1")
    assert "VecNormalize" in mistake(tmp_path, *options, "-n", "100", "-params", "normalize:True")
    assert not Path(tmp_path, "logs", "apex-iqn", "CartPole-v1_1", "CartPole-v1.zip").exists()
