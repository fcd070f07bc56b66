"""Choosing actions: exploration."""

import numpy as np

from sb3_distrl.common.overlap import Overlapping


class Acting(Overlapping):
    """SB3's ``predict`` with a draw of epsilon for each environment of a vectorised step."""

    def predict(
        self,
        observation: np.ndarray | dict[str, np.ndarray],
        state: tuple[np.ndarray, ...] | None = None,
        episode_start: np.ndarray | None = None,
        deterministic: bool = False,
    ) -> tuple[np.ndarray, tuple[np.ndarray, ...] | None]:
        """
        Choose actions; unless ``deterministic``, epsilon-greedily with a draw for each environment, and with noise.

        :param observation: one observation, or one for each of several environments
        :param state: passed through
        :param episode_start: passed through
        :param deterministic: greedy, without noise
        :return: the actions, and the state
        """
        if deterministic:
            return self.policy.predict(observation, state, episode_start, deterministic)
        vectorized = self.policy.is_vectorized_observation(observation)
        some_obs = next(iter(observation.values())) if isinstance(observation, dict) else observation
        n_obs = len(some_obs) if vectorized else 1
        explore = np.random.rand(n_obs) < self.exploration_rate
        actions = np.empty(n_obs, dtype=np.int64)
        if not explore.all():
            actions[:], state = self.policy.predict(observation, state, episode_start, deterministic)
        for i in np.flatnonzero(explore):
            actions[i] = self.action_space.sample()
        return actions if vectorized else actions.squeeze(axis=0), state
