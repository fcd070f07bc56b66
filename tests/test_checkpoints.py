"""Checkpoints, the callback that makes them, and what goes on after a stop."""

import multiprocessing
import os
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import sb3_contrib
import torch as th
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.vec_env import VecNormalize

from sb3_distrl import QRDQN, Rainbow
from sb3_distrl.common.callbacks import RollingCheckpointCallback, latest_checkpoint
from tests.common.envs import vec_env
from tests.common.resuming import STEPS, class_of, new_env, new_model
from tests.common.settings import ALGORITHMS, assert_same_parameters, make, snapshot
from tests.common.test_episodes import check_samples

# Random generators


@pytest.mark.parametrize("between", ["save", "checkpoint"])
@pytest.mark.parametrize("name", ["Rainbow", "IQN"])
def test_loading_and_saving_again_changes_nothing(name: str, between: str, tmp_path: Path) -> None:
    model = new_model(name, 1)
    model.learn(STEPS)
    model.save_checkpoint(tmp_path / "one")

    def going_on_from(path: Path) -> dict[str, th.Tensor]:
        np.random.rand(5), th.rand(5)  # whatever others draw
        loaded = class_of(name).load_checkpoint(path, env=new_env(name, 1), device="cpu")
        loaded.learn(STEPS, reset_num_timesteps=False)
        return snapshot(loaded)

    expected = going_on_from(tmp_path / "one")
    loaded = class_of(name).load_checkpoint(tmp_path / "one", env=new_env(name, 1), device="cpu")
    loaded.save_checkpoint(tmp_path / "two")
    assert_same_parameters(going_on_from(tmp_path / "two"), expected)
    loaded.learn(STEPS, reset_num_timesteps=False)
    assert_same_parameters(snapshot(loaded), expected)


def test_a_new_training_draws_anew(tmp_path: Path) -> None:
    """The random generators of then are taken over to go on, not to begin again."""
    model = make(Rainbow)
    model.learn(40)
    model.save(tmp_path / "model")
    loaded = Rainbow.load(tmp_path / "model", env=vec_env())
    np.random.seed(1)
    expected = np.random.rand()
    for reset_num_timesteps in (True, False):  # the second time, it is too late to take them over
        np.random.seed(1)
        loaded._setup_learn(10, reset_num_timesteps=reset_num_timesteps)
        assert np.random.rand() == expected


def test_random_generators_are_taken_over_once(tmp_path: Path) -> None:
    model = make(Rainbow)
    model.learn(40)
    model.save(tmp_path / "model")
    expected = np.random.rand()
    loaded = Rainbow.load(tmp_path / "model", env=vec_env())
    loaded._setup_learn(10, reset_num_timesteps=False)
    assert np.random.rand() == expected
    np.random.seed(1)
    other = np.random.rand()
    np.random.seed(1)
    loaded._setup_learn(10, reset_num_timesteps=False)
    assert np.random.rand() == other


def test_saving_does_not_disturb(tmp_path: Path) -> None:
    other = new_model("Rainbow", 1).learn(STEPS)
    saving = new_model("Rainbow", 1).learn(STEPS, callback=RollingCheckpointCallback(20, tmp_path))
    assert_same_parameters(snapshot(saving), snapshot(other))
    assert latest_checkpoint(tmp_path) is not None


# The callback


@pytest.mark.parametrize("n_envs", [1, 3])
def test_the_last_checkpoints_are_kept(n_envs: int, tmp_path: Path) -> None:
    model = make(Rainbow, vec_env(n_envs=n_envs))
    assert latest_checkpoint(tmp_path / "runs") is None
    model.learn(118, callback=RollingCheckpointCallback(30, tmp_path / "runs", keep=3))
    names = sorted(path.name for path in (tmp_path / "runs").iterdir())
    # Between rollouts, of 4 vectorised steps each; the last one at the end
    expected = {1: [64, 96, 120], 3: [72, 108, 120]}[n_envs]
    assert names == sorted(f"checkpoint_{steps}_steps.zip" for steps in expected)
    latest = latest_checkpoint(tmp_path / "runs")
    assert latest is not None and latest.name == "checkpoint_120_steps.zip"
    for steps in expected:
        loaded = Rainbow.load_checkpoint(tmp_path / "runs" / f"checkpoint_{steps}_steps.zip", env=vec_env(n_envs=n_envs))
        assert loaded.num_timesteps == loaded.replay_buffer.size() * n_envs == steps, "nothing is half done"
        loaded.replay_buffer.check_valid()


def test_checkpoints_go_on_where_the_others_ended(tmp_path: Path) -> None:
    """Other files in the folder, and other runs, are let be."""
    for name in ("other_999_steps.zip", "checkpoint_best_steps.zip", "checkpoint_5_steps.zip.bak"):
        (tmp_path / name).write_text("mine")
    (tmp_path / ".checkpoint_7_steps.zip.tmp").write_text("left over")
    for _ in range(3):
        latest = latest_checkpoint(tmp_path)
        model = Rainbow.load_checkpoint(latest, env=vec_env()) if latest else make(Rainbow)
        model.learn(40, reset_num_timesteps=False, callback=RollingCheckpointCallback(25, tmp_path, keep=1))
    names = {path.name for path in tmp_path.iterdir()}
    assert names == {
        "other_999_steps.zip",
        "checkpoint_best_steps.zip",
        "checkpoint_5_steps.zip.bak",
        "checkpoint_120_steps.zip",
    }


class Deadly:
    """Kills the process that saves it."""

    def __getstate__(self) -> dict[str, Any]:
        os.kill(os.getpid(), signal.SIGKILL)
        return {}


@pytest.mark.skipif(not hasattr(os, "fork"), reason="kills forked processes")
@pytest.mark.parametrize("part", ["model", "replay buffer"])
def test_what_a_killed_process_leaves_is_found(part: str, tmp_path: Path) -> None:
    model = make(Rainbow)
    model.learn(40)
    vars(model if part == "model" else model.replay_buffer)["deadly"] = Deadly()
    saving = multiprocessing.get_context("fork").Process(
        target=model.save_checkpoint, args=(tmp_path / "checkpoint_40_steps.zip",)
    )
    saving.start()
    saving.join()
    assert saving.exitcode == -signal.SIGKILL
    assert [path.name for path in tmp_path.iterdir()] == [".checkpoint_40_steps.zip.tmp"]
    make(Rainbow).learn(4, callback=RollingCheckpointCallback(100, tmp_path))
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint_4_steps.zip"]


def test_a_checkpoint_in_the_middle_leads_where_the_uninterrupted_training_led(tmp_path: Path) -> None:
    """Had it reset its environment there."""

    class Reset(RollingCheckpointCallback):
        def _save(self) -> None:
            super()._save()
            self.model.set_env(new_env("Rainbow", 1))
            raise StopIteration

    model = new_model("Rainbow", 1)
    with pytest.raises(StopIteration):
        model.learn(2 * STEPS, callback=Reset(50, tmp_path))
    model.learn(STEPS, reset_num_timesteps=False)
    latest = latest_checkpoint(tmp_path)
    loaded = Rainbow.load_checkpoint(latest, env=new_env("Rainbow", 1), device="cpu")
    assert loaded.num_timesteps == 52
    loaded.learn(STEPS, reset_num_timesteps=False)
    assert_same_parameters(snapshot(loaded), snapshot(model))


def test_mistakes_with_the_callback(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="save_freq=0 must be at least 1"):
        RollingCheckpointCallback(0, tmp_path)
    with pytest.raises(ValueError, match="keep=0 must be at least 1"):
        RollingCheckpointCallback(1, tmp_path, keep=0)
    theirs = sb3_contrib.QRDQN("MlpPolicy", vec_env(), buffer_size=100)
    with pytest.raises(ValueError, match="model=QRDQN cannot be resumed exactly: use"):
        theirs.learn(10, callback=RollingCheckpointCallback(5, tmp_path))


# VecNormalize


def test_statistics_are_part_of_a_checkpoint(tmp_path: Path) -> None:
    model = make(QRDQN, VecNormalize(vec_env()))
    model.learn(60)
    model.save_checkpoint(tmp_path / "normalised")
    env = VecNormalize(vec_env())
    loaded = QRDQN.load_checkpoint(tmp_path / "normalised", env=env)
    assert np.array_equal(env.obs_rms.mean, model.env.obs_rms.mean) and env.obs_rms.count == model.env.obs_rms.count
    assert env.ret_rms.var == model.env.ret_rms.var
    loaded.learn(20, reset_num_timesteps=False)
    with pytest.raises(ValueError, match=r"normalised.* differ: wrap both in VecNormalize"):
        QRDQN.load_checkpoint(tmp_path / "normalised", env=vec_env())
    make(QRDQN).save_checkpoint(tmp_path / "plain")
    with pytest.raises(ValueError, match=r"plain.* differ: wrap both in VecNormalize, or neither"):
        QRDQN.load_checkpoint(tmp_path / "plain", env=VecNormalize(vec_env()))


# After a stop


class Stop(BaseCallback):
    """Stops learning, or breaks it off, at a step."""

    def __init__(self, at: int, error: bool) -> None:
        super().__init__()
        self.at, self.error = at, error

    def _on_step(self) -> bool:
        if self.n_calls == self.at and self.error:
            raise KeyboardInterrupt
        return self.n_calls != self.at


@pytest.mark.parametrize(
    ("name", "n_envs", "error"),
    [("Rainbow", 1, True), ("IQN", 3, True), *(("QRDQN", n_envs, error) for n_envs in (1, 3) for error in (False, True))],
)
def test_no_transition_skips_a_step_after_a_stop(name: str, n_envs: int, error: bool) -> None:
    """A callback stops between the step and its storing; what comes next must not be taken for what followed."""
    model = make(ALGORITHMS[name], vec_env(n_envs=n_envs), n_steps=3, gamma=0.9)
    for at in (6, 9, 11):
        try:
            model.learn(20 * n_envs, callback=Stop(at, error), reset_num_timesteps=False)
        except KeyboardInterrupt:
            assert error
    check_samples(model.replay_buffer)
    model.replay_buffer.check_valid()


# A replay buffer that is not the model's


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("n_steps", 2, r"^n_steps=2 differs from the replay buffer's 3: load the model .*n_steps=3.*or train with a new"),
        ("gamma", 0.5, r"^gamma=0.5 differs from the replay buffer's 0.9"),
        ("alpha", 0.7, r"^alpha=0.7 differs from the replay buffer's 0.5"),
        ("prioritized", False, r"^alpha=0.0 differs from the replay buffer's 0.5"),
    ],
)
def test_a_replay_buffer_of_other_settings(name: str, value: Any, message: str, tmp_path: Path) -> None:
    settings = dict(n_steps=3, gamma=0.9, alpha=0.5, prioritized=True)
    make(QRDQN, **settings).learn(20).save_replay_buffer(tmp_path / "buffer")
    model = make(QRDQN, **{**settings, name: value})
    model.load_replay_buffer(tmp_path / "buffer")
    with pytest.raises(ValueError, match=message):
        model.learn(20)
    model = make(QRDQN, **settings)
    model.load_replay_buffer(tmp_path / "buffer")
    model.learn(20)


def test_environments_by_id(tmp_path: Path) -> None:
    """As the constructor takes them."""
    model = QRDQN("MlpPolicy", "CartPole-v1", learning_starts=10, buffer_size=100, device="cpu").learn(30)
    model.save_checkpoint(tmp_path / "checkpoint")
    for loaded in (
        QRDQN.load_checkpoint(tmp_path / "checkpoint", "CartPole-v1", device="cpu"),
        QRDQN.load(tmp_path / "checkpoint", env="CartPole-v1", device="cpu"),
    ):
        loaded.set_env("CartPole-v1")
        loaded.learn(10, reset_num_timesteps=False)
        assert loaded.num_timesteps > 40
