"""The rows of a replay buffer: what is kept of each transition, how much memory that takes, and how it is saved."""

from typing import Any

import numpy as np
from stable_baselines3.common.buffers import ReplayBuffer

from sb3_distrl.buffers.observations import Observations, Storages, nbytes
from sb3_distrl.buffers.storage import NEXT, OBS
from sb3_distrl.buffers.sum_tree import SumTree
from sb3_distrl.checks import check_memory

FORMAT = 2  # of a saved buffer; another one cannot be loaded
ROW_ARRAYS = ("actions", "rewards", "_dones", "timeouts")


class RowBuffer(ReplayBuffer):
    """
    The memory of :class:`~sb3_distrl.buffers.PrioritizedReplayBuffer`, where the arguments are described: rows of transitions,
    and the tree of the masses that they are drawn by. It is taken with the first transition.
    """

    def reset(self) -> None:
        """Forget all transitions, and give their memory back."""
        super().reset()
        self.stored = Observations(self.observation_space, self.buffer_size, self.n_envs, self.optimize_memory_usage)
        self._added = np.zeros(self.n_envs, dtype=np.int64)  # rows of each environment, since the first

    def check_memory(self) -> None:
        """
        :raises ValueError: if the buffer is not allocated yet and there is less memory than it needs, as far as one can tell
            before the first observations
        """
        if not self.stored.allocated:
            self._check_memory(self.stored.storages_for())

    def _check_memory(self, storages: Storages) -> None:
        observation_bytes, fixed_bytes = (nbytes(storages, rows) for rows in (self.buffer_size, 0))
        slots = self.buffer_size * self.n_envs
        slot_bytes = self.action_dim * np.dtype(self.action_space.dtype).itemsize + 4 + 2 + 8  # and reward, flags, mass
        remedy = "" if self.optimize_memory_usage else ", or optimize_memory_usage=True"
        check_memory("buffer_size", slots, observation_bytes + slots * slot_bytes, fixed_bytes, remedy)

    def _allocate(self, storages: Storages) -> None:
        """:param storages: for the observations"""
        self._check_memory(storages)
        self._allocate_rows()
        self.tree = SumTree(self.buffer_size * self.n_envs)
        self.stored.allocate(storages)

    def _allocate_rows(self) -> None:
        shape = (self.buffer_size, self.n_envs)
        self.actions = np.zeros((*shape, self.action_dim), dtype=self._maybe_cast_dtype(self.action_space.dtype))
        self.rewards = np.zeros(shape, dtype=np.float32)
        self._dones = np.zeros(shape, dtype=bool)
        self.timeouts = np.zeros(shape, dtype=bool)

    def size(self) -> int:
        """:return: rows of the environment that has filled most"""
        return int(min(self._added.max(), self.buffer_size))

    @property
    def dones(self) -> np.ndarray:  # type: ignore[override]
        """
        Whether the episode ended there, terminated or truncated, shape [rows, n_envs].

        It is a copy: SB3's learn() makes terminations of the last transitions where memory is optimised (its issue 46).
        """
        return self._dones.copy()

    @property
    def observations(self) -> Any:  # type: ignore[override]
        """SB3's array, shape [rows, n_envs, ...], or a dict of them; not with ``optimize_memory_usage``."""
        return self.stored.arrays(OBS)

    @property
    def next_observations(self) -> Any:  # type: ignore[override]
        """Like :attr:`observations`."""
        return self.stored.arrays(NEXT)

    def __getstate__(self) -> dict[str, Any]:
        filled = {name: vars(self)[name][: self.size()] for name in ROW_ARRAYS if self.stored.allocated}
        return {"format": FORMAT, **vars(self), **filled}

    def __setstate__(self, state: dict[str, Any]) -> None:
        if state.pop("format", None) != FORMAT:
            raise ValueError("The buffer was saved by another version of sb3_distrl: use that version, or fill a new buffer.")
        vars(self).update(state)
        if self.stored.allocated:
            self._allocate_rows()
            for name in ROW_ARRAYS:
                vars(self)[name][: self.size()] = state[name]
