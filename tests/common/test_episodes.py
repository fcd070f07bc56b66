"""Traps 4, 5 and 7: n-step returns through the algorithms, whatever happens to the environment between."""

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium import spaces
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize

from sb3_distrl import IQN, QRDQN, Rainbow
from sb3_distrl.common.algorithm import ValueAlgorithm
from tests.common.envs import episode_length, reward_of, terminates, vec_env
from tests.common.settings import make

ALGORITHMS = [Rainbow, IQN, QRDQN]
N_STEPS, GAMMA = 3, 0.9


@pytest.mark.parametrize("kind", ["box", "dict"])
@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_no_false_warning_of_n_steps(algorithm: type[ValueAlgorithm], kind: str, tmp_path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model = make(algorithm, kind=kind, n_steps=N_STEPS, gamma=GAMMA)
        model.save(tmp_path / "model")
        loaded = algorithm.load(tmp_path / "model", env=vec_env(kind))
        own_class = make(algorithm, kind=kind, n_steps=N_STEPS, gamma=GAMMA, replay_buffer_class=type(model.replay_buffer))
    for each in (model, loaded, own_class):
        assert each.n_steps == each.replay_buffer.n_steps == N_STEPS
        assert each.replay_buffer.gamma == GAMMA


def check_samples(buffer: Any) -> list[tuple[int, int, int, int]]:
    """
    Draw every transition, and see that its return stays within its environment and episode.

    :param buffer: of a model on counting environments
    :return: environment, episode, step and length of each return
    """
    batch = buffer.sample(40 * buffer.size() * buffer.n_envs)
    assert set(batch.indices) == set(range(buffer.size() * buffer.n_envs)), "all are drawn"
    _, firsts = np.unique(batch.indices, return_index=True)
    parts = (batch.observations, batch.next_observations, batch.rewards, batch.discounts, batch.dones)
    parts = tuple((part["vector"] if isinstance(part, dict) else part)[firsts] for part in parts)
    seen = []
    for obs, next_obs, total, discount, done in zip(*(part.numpy().tolist() for part in parts), strict=True):
        env_id, episode, step = (int(part) for part in obs)
        assert next_obs[:2] == obs[:2], "a return reached into another episode or environment"
        length = int(next_obs[2]) - step
        assert 1 <= length <= N_STEPS
        rewards = [reward_of(env_id, episode, step + k) for k in range(length)]
        assert total[0] == pytest.approx(sum(GAMMA**k * reward for k, reward in enumerate(rewards)), abs=1e-6)
        assert discount[0] == pytest.approx(GAMMA**length)
        assert done[0] == (next_obs[2] == episode_length(episode) and terminates(episode))
        seen.append((env_id, episode, step, length))
    return seen


def learn_again(model: Any, path: Path) -> None:
    model.learn(20 * model.n_envs)


def go_on(model: Any, path: Path) -> None:
    model.learn(20 * model.n_envs, reset_num_timesteps=False)


def set_another_env(model: Any, path: Path) -> None:
    model.set_env(vec_env(model.env.envs[0].kind, model.n_envs, first_id=40))
    model.learn(20 * model.n_envs, reset_num_timesteps=False)


def load_own_buffer(model: Any, path: Path) -> None:
    model.save_replay_buffer(path / "buffer")
    model.learn(10 * model.n_envs, reset_num_timesteps=False)
    model.load_replay_buffer(path / "buffer")
    model.learn(20 * model.n_envs, reset_num_timesteps=False)


class ResetEnv(BaseCallback):
    """Resets the environment before each rollout."""

    def _on_rollout_start(self) -> None:
        self.model._last_obs = self.training_env.reset()

    def _on_step(self) -> bool:
        return True


def reset_in_a_callback(model: Any, path: Path) -> None:
    model.learn(20 * model.n_envs, reset_num_timesteps=False, callback=ResetEnv())


@pytest.mark.parametrize("n_envs", [1, 3])
@pytest.mark.parametrize("kind", ["box", "dict"])
@pytest.mark.parametrize("go_on_after", [learn_again, go_on, set_another_env, load_own_buffer, reset_in_a_callback])
def test_no_return_reaches_across_a_reset(
    go_on_after: Callable[[Any, Path], None], kind: str, n_envs: int, tmp_path: Path
) -> None:
    model = make(QRDQN, vec_env(kind, n_envs), kind=kind, n_steps=N_STEPS, gamma=GAMMA)
    model.learn(23 * n_envs)  # 24 steps, 5 of the fourth episode
    first = set(check_samples(model.replay_buffer))
    assert (0, 3, 5, 1) in first, "the newest return is as long as is known"
    go_on_after(model, tmp_path)
    second = set(check_samples(model.replay_buffer))
    # Where the episode was going on the newest return has grown, everywhere else it ended there
    assert ((0, 3, 5, 3) in second) == (go_on_after is go_on)
    assert ((0, 3, 5, 1) in second) == (go_on_after is not go_on)


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_no_return_reaches_across_with_any_algorithm(algorithm: type[ValueAlgorithm], tmp_path: Path) -> None:
    model = make(algorithm, n_steps=N_STEPS, gamma=GAMMA)
    for go_on_after in (go_on, learn_again, set_another_env, load_own_buffer):
        go_on_after(model, tmp_path)
        check_samples(model.replay_buffer)


def test_buffer_of_another_model(tmp_path: Path) -> None:
    filled = make(QRDQN, n_steps=N_STEPS, gamma=GAMMA)
    filled.learn(23)
    filled.save_replay_buffer(tmp_path / "buffer")
    model = make(QRDQN, vec_env(first_id=40), n_steps=N_STEPS, gamma=GAMMA)
    model.load_replay_buffer(tmp_path / "buffer")
    model.learn(20)
    assert model.replay_buffer.size() == 44
    assert (0, 3, 5, 1) in check_samples(model.replay_buffer)


class ConstantEnv(gym.Env):
    """Every observation is the same, episodes never end; the reward is a hundredth of the episode's number."""

    observation_space = spaces.Box(0, 1, (1,), np.float32)
    action_space = spaces.Discrete(2)
    episode = 0

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[np.ndarray, dict[str, Any]]:
        super().reset(seed=seed)
        self.episode += 1
        return np.ones(1, dtype=np.float32), {}

    def step(self, action: int) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        return np.ones(1, dtype=np.float32), 0.01 * self.episode, False, False, {}


@pytest.mark.parametrize("go_on_after", [learn_again, go_on, set_another_env, load_own_buffer])
def test_resets_that_observations_do_not_show(go_on_after: Callable[[Any, Path], None], tmp_path: Path) -> None:
    """Here nothing but SB3's calls tells that the environment was reset."""

    def new_env(model: Any, path: Path) -> None:
        env = ConstantEnv()
        env.episode = 40
        model.set_env(env)
        model.learn(20, reset_num_timesteps=False)

    model = make(IQN, ConstantEnv(), n_steps=N_STEPS, gamma=GAMMA)
    model.learn(24)
    (new_env if go_on_after is set_another_env else go_on_after)(model, tmp_path)
    buffer = model.replay_buffer
    batch = buffer.sample(2000)
    lengths = np.round(np.log(batch.discounts.numpy().ravel()) / np.log(GAMMA)).astype(int)
    shortest = {int(index): int(length) for index, length in zip(batch.indices, lengths, strict=True)}
    expected = {index: N_STEPS for index in range(44)} | {42: 2, 43: 1}
    if go_on_after is not go_on:
        expected |= {22: 2, 23: 1}
    assert shortest == expected
    rewards = buffer.rewards[batch.indices, 0]
    assert batch.rewards.numpy().ravel() == pytest.approx(rewards * (1 - GAMMA**lengths) / (1 - GAMMA), rel=1e-5)


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_rewards_are_normalised_before_they_are_summed(algorithm: type[ValueAlgorithm]) -> None:
    """With a reward clip that most normalised rewards exceed, normalising the sum would give another result."""
    env = VecNormalize(DummyVecEnv([lambda: vec_env().envs[0]]), gamma=GAMMA, clip_reward=0.3)
    policy_kwargs = dict(v_min=-10.0, v_max=10.0) if algorithm is Rainbow else {}
    model = make(algorithm, env, n_steps=N_STEPS, gamma=GAMMA, policy_kwargs=policy_kwargs)
    batches = []
    gradient_step = model.gradient_step

    def keep(batch: Any) -> None:
        batches.append(
            (batch, model.replay_buffer.rewards.copy(), np.sqrt(env.ret_rms.var + env.epsilon), env.obs_rms.mean.copy())
        )
        gradient_step(batch)

    model.gradient_step = keep
    model.learn(100)

    stored = model.replay_buffer
    raw = [reward_of(0, int(episode), int(step)) for _, episode, step in stored.observations[: stored.pos, 0]]
    assert stored.rewards[: stored.pos, 0] == pytest.approx(raw), "raw rewards are stored"
    assert stored.observations[1, 0].tolist() == [0, 0, 1], "raw observations too"

    assert len(batches) == 20
    n_clipped = 0
    for batch, rewards, scale, mean in batches:
        for row, index in enumerate(batch.indices):
            length = round(np.log(float(batch.discounts[row])) / np.log(GAMMA))
            normalised = [np.clip(rewards[index + k, 0] / scale, -0.3, 0.3) for k in range(length)]
            n_clipped += sum(abs(reward) == 0.3 for reward in normalised)
            expected = sum(GAMMA**k * reward for k, reward in enumerate(normalised))
            assert float(batch.rewards[row]) == pytest.approx(expected, abs=1e-6)
            difference = stored.observations[index, 0] - mean
            assert np.array_equal(np.sign(batch.observations[row].numpy()), np.sign(difference))
    assert n_clipped > 50
