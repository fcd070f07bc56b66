"""The rows of a replay buffer: what it stores for each transition, allocation and pickling."""

from collections.abc import Callable
from typing import Any, ClassVar, NamedTuple

import numpy as np
from gymnasium import spaces
from numpy.typing import DTypeLike
from stable_baselines3.common.buffers import ReplayBuffer

from sb3_distrl.buffers.observations import DictStorage, make_storage
from sb3_distrl.buffers.storage import NEXT, OBS, ObservationStorage, unallocated
from sb3_distrl.buffers.sum_tree import SumTree
from sb3_distrl.validation import check_memory

FORMAT = 2  # of a saved buffer; others cannot be loaded


class RowArray(NamedTuple):
    """
    A field that a replay buffer stores for each transition, in an array of shape [rows, n_envs, *shape].

    :param dtype: type of the array
    :param shape: shape of an entry; by default a single number
    """

    dtype: DTypeLike
    shape: tuple[int, ...] = ()


class RowBuffer(ReplayBuffer):
    """The memory of :class:`~sb3_distrl.buffers.PrioritizedReplayBuffer`, allocated when the first transition is added."""

    #: Fields of a transition besides observations and actions, whose types and shapes the spaces give
    row_arrays: ClassVar[dict[str, RowArray]] = {
        "rewards": RowArray(np.float32),
        "_dones": RowArray(np.bool_),
        "timeouts": RowArray(np.bool_),
    }
    stored: ObservationStorage
    tree: SumTree
    max_priority: float
    _dones: np.ndarray
    _added: np.ndarray  # number of rows added, for each environment
    _oldest: np.ndarray  # number of the oldest row still stored, for each environment
    _all_envs: np.ndarray

    def reset(self) -> None:
        """Remove all transitions and priorities, and release their memory."""
        vars(self).update(  # all at once, so that Ctrl-C cannot come in between
            pos=0,
            full=False,
            stored=self._make_storage(),
            max_priority=1.0,
            _added=np.zeros(self.n_envs, dtype=np.int64),
            _oldest=np.zeros(self.n_envs, dtype=np.int64),
            _all_envs=np.arange(self.n_envs),
            **self._row_arrays(unallocated),
        )

    def _make_storage(self, lossless: bool = False) -> ObservationStorage:
        space, optimize = self.observation_space, self.optimize_memory_usage
        return make_storage(space, self.buffer_size, self.n_envs, optimize, lossless)

    def check_memory(self) -> None:
        """:raises ValueError: if there is too little memory to allocate the buffer, as far as known before the first add"""
        if self.stored.allocated:
            return
        observation_bytes, fixed_bytes = (self.stored.nbytes(rows) for rows in (self.buffer_size, 0))
        slots = self.buffer_size * self.n_envs
        row_bytes = sum(vars(self)[name].nbytes for name in self._row_names) + slots * 8  # and masses
        remedy = "" if self.optimize_memory_usage else ", or optimize_memory_usage=True"
        check_memory("buffer_size", slots, observation_bytes + row_bytes, fixed_bytes, remedy)

    def _allocate(self) -> None:
        self.check_memory()
        self._allocate_rows()
        self.tree = SumTree(self.buffer_size * self.n_envs)
        self.stored.allocate()

    def _allocate_rows(self) -> None:
        vars(self).update(self._row_arrays(np.zeros))

    @property
    def _row_names(self) -> list[str]:
        """Names of all row arrays."""
        return ["actions", *self.row_arrays]

    def _row_arrays(self, make: Callable[[tuple[int, ...], DTypeLike], np.ndarray]) -> dict[str, np.ndarray]:
        """:return: all row arrays, each made by ``make(shape, dtype)``"""
        actions = RowArray(self._maybe_cast_dtype(self.action_space.dtype), (self.action_dim,))  # type: ignore[arg-type]
        rows = zip(self._row_names, (actions, *self.row_arrays.values()), strict=True)
        return {name: make((self.buffer_size, self.n_envs, *row.shape), row.dtype) for name, row in rows}

    def size(self) -> int:
        """:return: number of rows filled by the environment that has filled most"""
        return int(min(self._added.max(), self.buffer_size))

    @property
    def dones(self) -> np.ndarray:  # type: ignore[override]
        """
        Whether the episode ended (terminated or truncated), shape [rows, n_envs].

        A copy, because with optimize_memory_usage SB3's learn() marks the last transitions as terminated (SB3's issue 46).
        """
        return self._dones.copy()

    @property
    def observations(self) -> Any:  # type: ignore[override]
        """
        SB3's array, shape [rows, n_envs, ...], or a dict of them; before the first transition, read-only zeros.

        :raises AttributeError: with ``optimize_memory_usage``
        """
        return self.stored.array(OBS)

    @property
    def next_observations(self) -> Any:  # type: ignore[override]
        """Like :attr:`observations`."""
        return self.stored.array(NEXT)

    def __getstate__(self) -> dict[str, Any]:
        state = {"format": FORMAT, **vars(self)}
        for name in self._row_names:
            state[name] = state[name][: self.size()]
        if not self.stored.allocated:
            del state["stored"]
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        if state.pop("format", None) != FORMAT:
            raise ValueError("The buffer was saved by another version of sb3_distrl: use that version, or fill a new buffer.")
        state.pop("_changing", None)  # of 0.1.0
        filled = {name: state.pop(name) for name in self._row_names if name in state}
        vars(self).update(state)
        stored = state.get("stored")
        if isinstance(stored, DictStorage) and not isinstance(self.observation_space, spaces.Dict):
            stored = stored.storages.get("")  # of 0.1.0
        if stored is None or not stored.allocated:
            self.stored = self._make_storage()
            vars(self).update(self._row_arrays(unallocated))
            return
        if missing := [name for name in self._row_names if name not in filled]:
            raise ValueError(
                f"The buffer was saved without {missing}, which {type(self).__name__} stores with each transition: load it "
                "with the class that saved it, or fill a new buffer."
            )
        self.stored = stored
        vars(self).update(self._row_arrays(np.zeros))
        for name, array in filled.items():
            vars(self)[name][: self.size()] = array
