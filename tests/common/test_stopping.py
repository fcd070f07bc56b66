"""Callbacks that stop training: the step at which they do so is stored and counted like any other."""

from itertools import product
from typing import Any

import numpy as np
import pytest
from stable_baselines3.common.buffers import ReplayBuffer
from stable_baselines3.common.callbacks import (
    BaseCallback,
    EvalCallback,
    StopTrainingOnMaxEpisodes,
    StopTrainingOnRewardThreshold,
)
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize

from sb3_distrl import IQN, QRDQN, Rainbow
from sb3_distrl.common.algorithm import ValueAlgorithm
from tests.common.envs import CountingEnv, episode_length, vec_env
from tests.common.settings import make

ON_OFF = (False, True)


class GoalEnv(CountingEnv):
    """Its reward is 1 at the end of an episode, and 0 before."""

    def step(self, action: int) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        obs, _, terminated, truncated, info = super().step(action)
        return obs, float(terminated or truncated), terminated, truncated, info


class StopAt(BaseCallback):
    """Stops at the given number of steps; it counts what SB3 calls."""

    def __init__(self, steps: int) -> None:
        super().__init__()
        self.steps, self.calls = steps, dict(start=0, end=0, training_end=0)

    def _on_rollout_start(self) -> None:
        self.calls["start"] += 1

    def _on_step(self) -> bool:
        assert self.locals["callback"] is not None and self.locals["train_freq"] == self.model.train_freq
        return self.num_timesteps < self.steps

    def _on_rollout_end(self) -> None:
        self.calls["end"] += 1

    def _on_training_end(self) -> None:
        self.calls["training_end"] += 1


@pytest.mark.parametrize(
    ("algorithm", "n_envs", "overlap", "buffer_class"),
    [
        (Rainbow, 1, True, None),
        (IQN, 3, True, None),
        *((QRDQN, *each) for each in product([1, 3], ON_OFF, [None, ReplayBuffer])),
    ],
)
def test_the_last_transition_is_stored(
    algorithm: type[ValueAlgorithm], n_envs: int, overlap: bool, buffer_class: type[ReplayBuffer] | None
) -> None:
    env = DummyVecEnv([lambda i=i: Monitor(GoalEnv(env_id=i)) for i in range(n_envs)])
    plain = dict(prioritized=False, n_steps=1) if buffer_class else {}
    support = dict(v_min=-40.0, v_max=40.0) if algorithm is Rainbow else {}
    model = make(algorithm, env, overlap=overlap, replay_buffer_class=buffer_class, policy_kwargs=support, **plain)
    model.learning_starts = 0
    steps, episodes = 0, 0
    for _ in range(5):
        model.learn(1000, callback=StopTrainingOnMaxEpisodes(1))
        steps, episodes = steps + model.num_timesteps, episodes + model._episode_num
        assert len(model.ep_info_buffer) == model._episode_num >= n_envs
    buffer = model.replay_buffer
    stored = buffer.size() * n_envs
    assert stored == steps
    assert buffer.rewards[: buffer.size()].sum() == buffer.dones[: buffer.size()].sum() == episodes
    assert model._n_updates > 0


@pytest.mark.parametrize("overlap", [False, True])
@pytest.mark.parametrize("stop", [15, 18, 22])  # in the middle of rollouts and at the end of an episode
def test_going_on_in_the_same_episode(stop: int, overlap: bool) -> None:
    """As in SB3, nothing is stored twice, and nothing is left out."""
    model = make(QRDQN, vec_env(), overlap=overlap)
    model.learn(100, callback=StopAt(stop))
    assert model.num_timesteps == stop == model.replay_buffer.size() == model._n_calls
    model.learn(30, reset_num_timesteps=False)
    buffer = model.replay_buffer
    seen = [tuple(int(part) for part in obs[1:]) for obs in buffer.observations[: buffer.size(), 0]]
    expected = [(episode, step) for episode in range(20) for step in range(episode_length(episode))]
    assert seen == expected[: len(seen)] and len(seen) == model.num_timesteps >= stop + 30
    buffer.check_valid()


def test_what_callbacks_see_and_when() -> None:
    model = make(QRDQN, train_freq=4)
    callback = StopAt(22)
    model.learn(100, callback=callback)
    assert callback.calls == dict(start=6, end=5, training_end=1)  # SB3 has no end of a rollout that was stopped
    assert model.num_timesteps == 22 and model._n_updates == 0  # 20 = learning_starts


def test_gradient_steps_that_are_due_are_done_by_the_next_learn() -> None:
    model = make(QRDQN, learning_starts=0, replay_ratio=1.0, train_freq=4)
    model.learn(100, callback=StopAt(10))
    assert model._n_updates == 8
    model.learn(4, reset_num_timesteps=False)
    assert model._n_updates == 14


def test_evaluations_stop_training_too() -> None:
    model = make(IQN)
    stop = StopTrainingOnRewardThreshold(-1e6)
    evaluation = EvalCallback(Monitor(CountingEnv()), callback_on_new_best=stop, eval_freq=13, n_eval_episodes=1, verbose=0)
    model.learn(100, callback=evaluation)
    assert model.num_timesteps == model.replay_buffer.size() == 13


def test_statistics_of_normalisation_are_those_of_what_is_stored() -> None:
    model = make(QRDQN, VecNormalize(vec_env()))
    model.learn(100, callback=StopAt(17))
    model.learn(20, reset_num_timesteps=False)
    buffer = model.replay_buffer
    steps = buffer.observations[: buffer.size(), 0, 2]
    assert np.array_equal(steps, np.round(steps)), "they are stored as they came"
    assert steps[:18].tolist() == [*range(5), *range(6), *range(7)]


def test_an_exception_still_leads_to_a_reset() -> None:
    """The environment has gone a step further than what is stored."""

    def fail(*_: Any) -> bool:
        if model.num_timesteps == 17:
            raise KeyboardInterrupt
        return True

    model = make(QRDQN)
    with pytest.raises(KeyboardInterrupt):
        model.learn(100, callback=fail)
    assert model.replay_buffer.size() == 16 and model._last_obs is None
