"""SB3's replay buffers, which nobody tells of a reset: no sample reaches from one episode into the next."""

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from stable_baselines3 import HerReplayBuffer
from stable_baselines3.common.buffers import NStepReplayBuffer, ReplayBuffer
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.envs import BitFlippingEnv
from stable_baselines3.common.vec_env import VecEnv

from sb3_distrl import QRDQN
from tests.common.envs import episode_length, reward_of, terminates, vec_env
from tests.common.settings import make

N_STEPS, GAMMA, N_BITS = 3, 0.9, 6
FIRST, SECOND = 24, 20  # steps of each environment; the fourth episode is going on between

NewEnv = Callable[[], VecEnv]


def learn_again(model: Any, new_env: NewEnv, folder: Path) -> Any:
    return model


def another_env(model: Any, new_env: NewEnv, folder: Path) -> Any:
    former = model.env
    model.set_env(new_env())
    former.close()
    return model


def checkpoint(model: Any, new_env: NewEnv, folder: Path) -> Any:
    model.save_checkpoint(folder / "checkpoint")
    return QRDQN.load_checkpoint(folder / "checkpoint", env=new_env(), device="cpu")


def files(model: Any, new_env: NewEnv, folder: Path) -> Any:
    model.save(folder / "model")
    model.save_replay_buffer(folder / "buffer")
    loaded = QRDQN.load(folder / "model", env=new_env(), device="cpu")
    loaded.load_replay_buffer(folder / "buffer")
    return loaded


def files_of_an_episode_that_goes_on(model: Any, new_env: NewEnv, folder: Path) -> Any:
    """As rl-zoo3 asks for, whose environments begin anew all the same."""
    model.save(folder / "model")
    model.save_replay_buffer(folder / "buffer")
    loaded = QRDQN.load(folder / "model", env=new_env(), device="cpu")
    loaded.load_replay_buffer(folder / "buffer", truncate_last_traj=False)
    return loaded


def an_older_buffer(model: Any, new_env: NewEnv, folder: Path) -> Any:
    """The environment goes on, but not from where the buffer's last transition led to."""
    model.save_replay_buffer(folder / "buffer")
    model.learn(2 * model.n_envs, reset_num_timesteps=False)
    model.load_replay_buffer(folder / "buffer")
    return model


WAYS = [learn_again, another_env, checkpoint, files, files_of_an_episode_that_goes_on, an_older_buffer]


def learn_on(go_on: Callable[..., Any], model: Any, new_env: NewEnv, folder: Path) -> ReplayBuffer:
    """:return: the buffer after the reset"""
    assert model.replay_buffer.size() == FIRST
    with warnings.catch_warnings():
        # SB3's, of load_replay_buffer(), and where memory is optimized
        warnings.filterwarnings("ignore", "The last trajectory in the replay buffer will be truncated")
        model = go_on(model, new_env, folder)
        model.learn(SECOND * model.n_envs, reset_num_timesteps=go_on is learn_again)
    assert model.replay_buffer.size() == FIRST + SECOND
    return model.replay_buffer


@pytest.mark.parametrize(("n_envs", "handle_timeout_termination"), [(1, False), (3, True)])
@pytest.mark.parametrize("go_on", WAYS)
def test_n_step_returns(go_on: Callable[..., Any], n_envs: int, handle_timeout_termination: bool, tmp_path: Path) -> None:
    settings = dict(n_steps=N_STEPS, gamma=GAMMA)
    kwargs = dict(handle_timeout_termination=handle_timeout_termination, **settings)
    env = vec_env(n_envs=n_envs)
    model = make(QRDQN, env, replay_buffer_class=NStepReplayBuffer, replay_buffer_kwargs=kwargs, **settings)
    model.learn(FIRST * n_envs)
    buffer = learn_on(go_on, model, lambda: vec_env(n_envs=n_envs, first_id=40), tmp_path)
    batch = buffer.sample(20 * buffer.size() * n_envs)
    parts = (batch.observations, batch.next_observations, batch.rewards, batch.discounts, batch.dones)
    seen = set()
    for obs, next_obs, total, discount, done in zip(*(part.numpy().tolist() for part in parts), strict=True):
        env_id, episode, step = (int(part) for part in obs)
        assert next_obs[:2] == obs[:2], "a return reached into another episode or environment"
        length = int(next_obs[2]) - step
        rewards = [reward_of(env_id, episode, step + k) for k in range(length)]
        assert 1 <= length <= N_STEPS
        assert total[0] == pytest.approx(sum(GAMMA**k * reward for k, reward in enumerate(rewards)), abs=1e-6)
        assert discount[0] == pytest.approx(GAMMA**length)
        ended = next_obs[2] == episode_length(episode)
        if handle_timeout_termination:
            assert done[0] == (ended and terminates(episode))
        seen.add((env_id, episode, step))
    assert len(seen) == buffer.size() * n_envs, "all are drawn"


@pytest.mark.parametrize("n_envs", [1, 3])
@pytest.mark.parametrize("go_on", WAYS)
def test_observations_that_are_kept_once(go_on: Callable[..., Any], n_envs: int, tmp_path: Path) -> None:
    kwargs = dict(handle_timeout_termination=False)
    model = make(
        QRDQN,
        vec_env(n_envs=n_envs),
        replay_buffer_class=ReplayBuffer,
        replay_buffer_kwargs=kwargs,
        optimize_memory_usage=True,
    )
    model.learn(FIRST * n_envs)
    buffer = learn_on(go_on, model, lambda: vec_env(n_envs=n_envs, first_id=40), tmp_path)
    batch = buffer.sample(4000)
    joined = (batch.observations[:, :2] != batch.next_observations[:, :2]).any(dim=1)
    assert joined.any() and (batch.dones[joined] == 1).all(), "nobody looks at what is behind the end"


def goal_env(n_envs: int) -> VecEnv:
    return make_vec_env(lambda: BitFlippingEnv(n_bits=N_BITS), n_envs, seed=1)


@pytest.mark.parametrize("n_envs", [1, 3])
@pytest.mark.parametrize("go_on", WAYS)
def test_hindsight(go_on: Callable[..., Any], n_envs: int, tmp_path: Path) -> None:
    model = make(QRDQN, goal_env(n_envs), kind="dict", replay_buffer_class=HerReplayBuffer, learning_starts=20 * n_envs)
    model.learn(FIRST * n_envs)
    assert (model.replay_buffer.ep_length[FIRST - 1] == 0).any(), "an episode is going on"
    buffer = learn_on(go_on, model, lambda: goal_env(n_envs), tmp_path)
    assert buffer.ep_length.max() <= N_BITS
    for row, env in np.argwhere(buffer.ep_length > 0):
        start, length = buffer.ep_start[row, env], buffer.ep_length[row, env]
        assert start <= row < start + length
        if row < start + length - 1:
            assert not buffer.dones[row, env]
            for key in ("observation", "achieved_goal", "desired_goal"):
                assert np.array_equal(buffer.next_observations[key][row, env], buffer.observations[key][row + 1, env])
    assert (buffer.ep_length[FIRST - 1] > 0).all(), "what was going on is trained on"
    assert buffer.dones[FIRST - 1].all()
    buffer.sample(50)


def test_going_on_in_the_same_episode_truncates_nothing(tmp_path: Path) -> None:
    settings = dict(n_steps=N_STEPS, gamma=GAMMA)
    model = make(QRDQN, replay_buffer_class=NStepReplayBuffer, replay_buffer_kwargs=settings, **settings)
    model.learn(FIRST)
    model.save_replay_buffer(tmp_path / "buffer")
    model.load_replay_buffer(tmp_path / "buffer", truncate_last_traj=False)
    model.learn(SECOND, reset_num_timesteps=False)
    assert not model.replay_buffer.dones[FIRST - 1] and not model.replay_buffer.timeouts[FIRST - 1]


@pytest.mark.parametrize("buffer_class", [ReplayBuffer, NStepReplayBuffer, HerReplayBuffer])
def test_the_truncation_makes_no_noise(buffer_class: Any, tmp_path: Path) -> None:
    """Where nobody can choose it."""
    goals = buffer_class is HerReplayBuffer
    env = goal_env(1) if goals else vec_env()
    kwargs = dict(n_steps=1) if buffer_class is NStepReplayBuffer else {}
    model = make(QRDQN, env, kind="dict" if goals else "box", replay_buffer_class=buffer_class, replay_buffer_kwargs=kwargs)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model.learn(FIRST)
        model.learn(FIRST)
        checkpoint(model, lambda: goal_env(1) if goals else vec_env(), tmp_path)


def test_hindsight_without_an_environment_is_not_called_damaged(tmp_path: Path) -> None:
    env = make_vec_env(lambda: BitFlippingEnv(n_bits=N_BITS), 1)
    model = make(QRDQN, env, kind="dict", replay_buffer_class=HerReplayBuffer)
    model.learn(20)
    model.save_replay_buffer(tmp_path / "buffer")
    make(QRDQN, env, kind="dict").save(tmp_path / "model")
    loaded = QRDQN.load(tmp_path / "model")
    with pytest.raises(ValueError, match=r"holds a replay buffer that needs env: load the model with env=\.\.\. first"):
        loaded.load_replay_buffer(tmp_path / "buffer")
