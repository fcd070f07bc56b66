"""Tiny environments whose observations tell where they come from."""

from collections.abc import Callable
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from stable_baselines3.common.vec_env import DummyVecEnv

KINDS = ["box", "image", "dict", "discrete", "multidiscrete", "multibinary"]
POLICIES = {"image": "CnnPolicy", "dict": "MultiInputPolicy"}  # for all other kinds: MlpPolicy
SIDE = 36  # the smallest image that the convolutions of the Nature DQN take

OBSERVATION_SPACES: dict[str, spaces.Space] = {
    "box": spaces.Box(-np.inf, np.inf, (3,), np.float32),
    "image": spaces.Box(0, 255, (SIDE, SIDE, 1), np.uint8),
    "discrete": spaces.Discrete(16),
    "multidiscrete": spaces.MultiDiscrete([2, 3, 9]),
    "multibinary": spaces.MultiBinary(7),
}
OBSERVATION_SPACES["dict"] = spaces.Dict(
    vector=OBSERVATION_SPACES["box"], image=OBSERVATION_SPACES["image"], place=OBSERVATION_SPACES["discrete"]
)


def episode_length(episode: int) -> int:
    """5 to 8 steps, other ones each time."""
    return 5 + episode % 4


def terminates(episode: int) -> bool:
    """Every second episode terminates; the others are truncated."""
    return episode % 2 == 0


def reward_of(env_id: int, episode: int, step: int) -> float:
    """The reward for going from ``step`` to ``step + 1``, whatever the action; small, so that usual supports hold it."""
    return 0.01 * ((7 * env_id + 3 * episode + 2 * step) % 11 - 5)


class CountingEnv(gym.Env):
    """
    The observation is (env_id, episode, step), written in the manner of ``kind``; episodes count over all resets.

    :param kind: of observations, one of ``KINDS``
    :param env_id: a number to know the environment by
    :param n_actions: how many actions there are; they do nothing
    """

    def __init__(self, kind: str = "box", env_id: int = 0, n_actions: int = 3) -> None:
        self.kind, self.env_id = kind, env_id
        self.episode, self.steps = -1, 0
        self.observation_space = OBSERVATION_SPACES[kind]
        self.action_space = spaces.Discrete(n_actions)

    def _observation(self, kind: str) -> Any:
        code = 9 * self.episode + self.steps + 31 * self.env_id
        if kind == "box":
            return np.array([self.env_id, self.episode, self.steps], dtype=np.float32)
        if kind == "image":
            image = np.full((SIDE, SIDE, 1), code % 256, dtype=np.uint8)
            image[:, self.steps] = 255
            return image
        if kind == "discrete":
            return np.int64(code % 16)
        if kind == "multidiscrete":
            return np.array([self.env_id % 2, self.episode % 3, self.steps])
        if kind == "multibinary":
            return np.array([(code >> bit) & 1 for bit in range(7)], dtype=np.int8)
        parts = dict(vector="box", image="image", place="discrete")
        return {key: self._observation(part) for key, part in parts.items()}

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self.episode += 1
        self.steps = 0
        return self._observation(self.kind), {}

    def step(self, action: int) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        reward = reward_of(self.env_id, self.episode, self.steps)
        self.steps += 1
        end = self.steps == episode_length(self.episode)
        terminated = end and terminates(self.episode)
        return self._observation(self.kind), reward, terminated, end and not terminated, {}


def make_env(kind: str = "box", env_id: int = 0, n_actions: int = 3) -> Callable[[], gym.Env]:
    return lambda: CountingEnv(kind, env_id, n_actions)


def vec_env(kind: str = "box", n_envs: int = 1, first_id: int = 0, n_actions: int = 3) -> DummyVecEnv:
    """
    :param kind: of observations
    :param n_envs: how many environments
    :param first_id: their numbers go up from here
    :param n_actions: how many actions there are
    :return: counting environments side by side
    """
    return DummyVecEnv([make_env(kind, first_id + i, n_actions) for i in range(n_envs)])


class BrokenEnv(CountingEnv):
    """
    A counting environment that turns out what is not finite.

    :param what: "reward", "obs" or "reset"
    :param value: NaN or infinite
    :param kind: "box" or "dict"
    :param after: steps that are sound
    """

    def __init__(self, what: str, value: float, kind: str = "box", after: int = 20) -> None:
        super().__init__(kind)
        self.what, self.value, self.after = what, value, after

    def _spoil(self, obs: Any) -> Any:
        (obs["vector"] if self.kind == "dict" else obs)[1] = self.value
        return obs

    def reset(self, **kwargs: Any) -> tuple[Any, dict[str, Any]]:
        obs, info = super().reset(**kwargs)
        return (self._spoil(obs) if self.what == "reset" else obs), info

    def step(self, action: int) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        obs, reward, terminated, truncated, info = super().step(action)
        self.after -= 1
        if self.after < 0 and self.what == "obs":
            obs = self._spoil(obs)
        if self.after < 0 and self.what == "reward":
            reward = self.value
        return obs, reward, terminated, truncated, info
