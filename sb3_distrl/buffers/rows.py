"""The rows of a replay buffer: what it stores for each transition, how much memory that takes, and how it is saved."""

from collections.abc import Callable
from typing import Any, ClassVar

import numpy as np
from numpy.typing import DTypeLike
from stable_baselines3.common.buffers import ReplayBuffer

from sb3_distrl.buffers.observations import Observations, Storages, nbytes
from sb3_distrl.buffers.storage import NEXT, OBS, RowArray, unallocated
from sb3_distrl.buffers.sum_tree import SumTree
from sb3_distrl.validation import check_memory

FORMAT = 2  # of a saved buffer; another one cannot be loaded


class RowBuffer(ReplayBuffer):
    """
    The memory of :class:`~sb3_distrl.buffers.PrioritizedReplayBuffer`, where the arguments are described: rows of transitions,
    and the tree of their sampling masses. Memory is allocated when the first transition is added.

    A subclass stores another field with each transition by extending :attr:`row_arrays` and :meth:`row_values`::

        class Curious(PrioritizedReplayBuffer):
            row_arrays = {**PrioritizedReplayBuffer.row_arrays, "intrinsic": RowArray(np.float32)}

            def row_values(self, obs, next_obs, action, reward, done, infos):
                values = super().row_values(obs, next_obs, action, reward, done, infos)
                return {**values, "intrinsic": np.array([info["intrinsic"] for info in infos])}

    ``buffer.intrinsic``, shape [rows, n_envs], is then checked, saved and sent in blocks like the rewards. The values of a
    sampled batch are ``buffer.intrinsic.reshape(-1)[batch.indices]``.
    """

    #: Fields of a transition, besides observations and actions, whose types and shapes follow from their spaces
    row_arrays: ClassVar[dict[str, RowArray]] = {
        "rewards": RowArray(np.float32),
        "_dones": RowArray(np.bool_),
        "timeouts": RowArray(np.bool_),
    }
    _dones: np.ndarray

    def reset(self) -> None:
        """Forget all transitions, and give their memory back."""
        super().reset()
        self.stored = Observations(self.observation_space, self.buffer_size, self.n_envs, self.optimize_memory_usage)
        self._added = np.zeros(self.n_envs, dtype=np.int64)  # rows of each environment, since the first
        self._set_row_arrays(unallocated)

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
        row_bytes = sum(vars(self)[name].nbytes for name in self._row_names) + slots * 8  # and masses
        remedy = "" if self.optimize_memory_usage else ", or optimize_memory_usage=True"
        check_memory("buffer_size", slots, observation_bytes + row_bytes, fixed_bytes, remedy)

    def _allocate(self, storages: Storages) -> None:
        """:param storages: for the observations"""
        self._check_memory(storages)
        self._allocate_rows()
        self.tree = SumTree(self.buffer_size * self.n_envs)
        self.stored.allocate(storages)

    def _allocate_rows(self) -> None:
        self._set_row_arrays(np.zeros)

    @property
    def _row_names(self) -> list[str]:
        """Names of all arrays with an entry for each transition."""
        return ["actions", *self.row_arrays]

    def _set_row_arrays(self, make: Callable[[tuple[int, ...], DTypeLike], np.ndarray]) -> None:
        """:param make: makes an array of zeros of a shape and a type"""
        dtype = self._maybe_cast_dtype(self.action_space.dtype)
        actions = RowArray(dtype, (self.action_dim,))  # type: ignore[arg-type]
        for name, row in zip(self._row_names, (actions, *self.row_arrays.values()), strict=True):
            vars(self)[name] = make((self.buffer_size, self.n_envs, *row.shape), row.dtype)

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
        """
        SB3's array, shape [rows, n_envs, ...], or a dict of them. Before the first transition, all arrays are read-only zeros.

        :raises AttributeError: with ``optimize_memory_usage``
        """
        return self.stored.arrays(OBS)

    @property
    def next_observations(self) -> Any:  # type: ignore[override]
        """Like :attr:`observations`."""
        return self.stored.arrays(NEXT)

    def __getstate__(self) -> dict[str, Any]:
        filled = {name: vars(self)[name][: self.size()] for name in self._row_names}
        return {"format": FORMAT, **vars(self), **filled}

    def __setstate__(self, state: dict[str, Any]) -> None:
        if state.pop("format", None) != FORMAT:
            raise ValueError("The buffer was saved by another version of sb3_distrl: use that version, or fill a new buffer.")
        filled = {name: state.pop(name) for name in self._row_names if name in state}
        vars(self).update(state)
        self._set_row_arrays(np.zeros if self.stored.allocated else unallocated)
        if not self.stored.allocated:
            return
        if missing := [name for name in self._row_names if name not in filled]:
            raise ValueError(
                f"The buffer was saved without {missing}, which {type(self).__name__} stores with each transition: load it "
                "with the class that saved it, or fill a new buffer."
            )
        for name, array in filled.items():
            vars(self)[name][: self.size()] = array
