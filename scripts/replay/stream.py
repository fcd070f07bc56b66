"""The transitions that ``scripts/replay/speed.py`` gives to replay buffers."""

from typing import NamedTuple

import numpy as np

N_ACTIONS = 6
SHAPE = (4, 84, 84)


class Step(NamedTuple):
    """One vectorised step, n_envs transitions; ``rewards`` number all transitions."""

    obs: np.ndarray  # [n_envs, 4, 84, 84]
    next_obs: np.ndarray
    actions: np.ndarray  # [n_envs]
    rewards: np.ndarray
    dones: np.ndarray
    truncated: np.ndarray


class Stream:
    """
    Endless steps of stacked frames, padded with zeros where an episode begins.

    :param n_envs: number of environments
    :param seed: seed
    :param episode_length: mean length of an episode
    """

    def __init__(self, n_envs: int, seed: int, episode_length: int) -> None:
        self.n_envs, self.episode_length, self.count = n_envs, episode_length, 0
        self.rng = np.random.default_rng(seed)
        self.picture = self.rng.integers(0, 256, (64, 64), np.uint8).repeat(8, axis=0).repeat(8, axis=1)
        self.places = self.rng.integers(0, 512 - 84, (n_envs, 2))
        self.obs = np.zeros((n_envs, *SHAPE), np.uint8)
        self.obs[:, -1] = self._frames()

    def _frames(self) -> np.ndarray:
        self.places = (self.places + self.rng.integers(1, 5, self.places.shape)) % (512 - 84)
        return np.stack([self.picture[y : y + 84, x : x + 84] for y, x in self.places])

    def step(self) -> Step:
        obs, next_obs = self.obs, np.concatenate([self.obs[:, 1:], self._frames()[:, None]], axis=1)
        dones = self.rng.random(self.n_envs) < 1 / self.episode_length
        self.obs = next_obs
        if dones.any():
            self.obs = next_obs.copy()
            self.obs[dones, :-1] = 0
            self.obs[dones, -1] = self._frames()[dones]
        rewards = np.arange(self.count, self.count + self.n_envs, dtype=np.float32)
        self.count += self.n_envs
        actions = self.rng.integers(0, N_ACTIONS, self.n_envs)
        return Step(obs, next_obs, actions, rewards, dones, dones & (self.rng.random(self.n_envs) < 0.5))
