"""Detection of environments that overwrite final observations."""

import copy
import warnings
from typing import Any

import numpy as np
from stable_baselines3.common.vec_env import DummyVecEnv, VecEnv


class FinalObservations:
    """
    Warns, once, of an environment that writes into an observation that it has returned.

    SB3's VecEnvs reset an environment whose episode has ended before they copy its final observation. If both observations
    share one array, the first observation of the next episode is stored instead of the final one, from which a truncated
    episode bootstraps. Such an array equals the first observation, which is legitimate, and changes later, which is not.

    Only DummyVecEnv can be inspected.
    """

    def __init__(self) -> None:
        self.told = False
        self._suspects: dict[int, tuple[Any, Any]] = {}  # by environment: the array, or dict, and a copy

    def look(self, env: VecEnv, dones: np.ndarray) -> None:
        """Inspect the environments after a step; ``dones`` says whether episodes ended at that step, shape [n_envs]."""
        if self.told or not (self._suspects or dones.any()):
            return
        envs = env.unwrapped
        if not isinstance(envs, DummyVecEnv):
            return
        for i, (final, held) in self._suspects.items():
            if not all(np.array_equal(self._part(final, key), self._part(held, key)) for key in envs.keys):
                self._tell(i)
                return
        for i in np.flatnonzero(dones).tolist():
            self._suspects.pop(i, None)
            final = envs.buf_infos[i].get("terminal_observation")
            if final is not None and envs.buf_infos[i].get("TimeLimit.truncated") and self._is_first(final, envs, i):
                self._suspects[i] = final, copy.deepcopy(final)

    @staticmethod
    def _part(observation: Any, key: str | None) -> Any:
        return observation if key is None else observation[key]

    def _is_first(self, final: Any, envs: DummyVecEnv, i: int) -> bool:
        """:return: whether the final observation of environment i equals the first one of its next episode"""
        first = {key: envs.buf_obs[key][i] for key in envs.keys}
        return all(np.array_equal(np.asarray(self._part(final, key), part.dtype), part) for key, part in first.items())

    def _tell(self, i: int) -> None:
        self.told = True
        self._suspects.clear()
        warnings.warn(
            f"Environment {i} writes into an observation that it has returned, so the first observation of an episode "
            "replaces the final one of the previous episode, from which truncated episodes bootstrap: let step() and reset() "
            "return a copy, e.g. observation.copy()."
        )
