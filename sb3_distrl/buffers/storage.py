"""Where a replay buffer keeps observations; here, each in whole."""

from abc import ABC, abstractmethod
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import DTypeLike

from sb3_distrl.buffers.blocks import StoredBlock, WholeBlock
from sb3_distrl.validation import check_array

OBS, NEXT = 0, 1  # which of a transition's two observations is meant


class RowArray(NamedTuple):
    """
    A field that a replay buffer stores for each transition, in an array of shape [rows, n_envs, *shape].

    :param dtype: type of the array
    :param shape: shape of one entry; by default a single number
    """

    dtype: DTypeLike
    shape: tuple[int, ...] = ()


def unallocated(shape: tuple[int, ...], dtype: DTypeLike) -> np.ndarray:
    """
    :param shape: shape of an array that is not needed yet
    :param dtype: its type
    :return: read-only zeros that take no memory
    """
    return np.broadcast_to(np.zeros((), dtype), shape)


class ObservationStorage(ABC):
    """
    The observations and next observations of all transitions, for one space.

    :param rows: transitions of each environment
    :param n_envs: number of environments
    :param shape: of an observation
    :param dtype: of an observation
    """

    def __init__(self, rows: int, n_envs: int, shape: tuple[int, ...], dtype: np.dtype) -> None:
        self.rows, self.n_envs, self.shape, self.dtype = rows, n_envs, shape, dtype
        self.filled_by_env = np.zeros(n_envs, dtype=np.int64)  # rows
        self.last_rows = np.full(n_envs, -1)  # where each environment's newest transition is

    @property
    def filled(self) -> int:
        """Rows of the environment that has filled most."""
        return int(self.filled_by_env.max())

    @abstractmethod
    def nbytes(self, rows: int) -> int:
        """
        :param rows: transitions of each environment
        :return: memory that they take, in bytes
        """

    @abstractmethod
    def allocate(self) -> None:
        """Make the arrays; before that, a storage takes no memory and holds nothing."""

    def prepared(self, obs: np.ndarray) -> np.ndarray:
        """
        :param obs: shape [n_envs, ...], of the storage's dtype
        :return: the same as :meth:`continues` and :meth:`add` take it
        """
        return obs

    def add(self, rows: np.ndarray, envs: np.ndarray, obs: np.ndarray, next_obs: np.ndarray, continues: np.ndarray) -> None:
        """
        Add a transition of each of E environments.

        :param rows: where to, shape [E]
        :param envs: whose they are, shape [E]
        :param obs: of :meth:`prepared`, shape [E, ...]
        :param next_obs: of :meth:`prepared`, shape [E, ...]
        :param continues: whether ``obs`` is the environment's next observation that was added last, shape [E]
        """
        self._add(rows, envs, obs, next_obs, continues)
        self._added(rows, envs)

    def _added(self, rows: np.ndarray, envs: np.ndarray) -> None:
        """
        :param rows: of the transitions, shape [E] or [T, E]
        :param envs: shape [E]
        """
        rows = rows.reshape(-1, len(envs))
        self.filled_by_env[envs] = np.maximum(self.filled_by_env[envs], rows.max(axis=0) + 1)
        self.last_rows[envs] = rows[-1]

    def continues(self, envs: np.ndarray, obs: np.ndarray) -> np.ndarray:
        """
        :param envs: shape [E]
        :param obs: of :meth:`prepared`, shape [E, ...]
        :return: whether it is the environment's next observation that was added last, to the bit, shape [E]
        """
        last_rows = self.last_rows[envs]
        return (last_rows >= 0) & self._continues(envs, obs, last_rows)

    @abstractmethod
    def _continues(self, envs: np.ndarray, obs: np.ndarray, last_rows: np.ndarray) -> np.ndarray: ...

    @abstractmethod
    def _add(
        self, rows: np.ndarray, envs: np.ndarray, obs: np.ndarray, next_obs: np.ndarray, continues: np.ndarray
    ) -> None: ...

    @abstractmethod
    def block(self) -> StoredBlock:
        """:return: all that was added since the storage was allocated, of which nothing may have been overwritten"""

    @abstractmethod
    def first(self, block: Any) -> np.ndarray:
        """
        :param block: of another storage of this kind
        :return: its first observations, as of :meth:`prepared`, shape [E, ...]
        """

    def extend(self, rows: np.ndarray, envs: np.ndarray, block: Any, continues: np.ndarray) -> None:
        """
        Add T transitions of each of E environments.

        :param rows: where to, shape [T, E]
        :param envs: whose they are, shape [E]
        :param block: of another storage of this kind
        :param continues: whether its first observation is the environment's next observation that was added last, shape [E]
        """
        self._extend(rows, envs, block, continues)
        self._added(rows, envs)

    @abstractmethod
    def _extend(self, rows: np.ndarray, envs: np.ndarray, block: Any, continues: np.ndarray) -> None: ...

    @abstractmethod
    def check_block(self, block: Any, steps: int, n_envs: int) -> None:
        """
        :param block: that somebody else has made
        :param steps: T
        :param n_envs: E
        :raises ValueError: if it is not a block of this storage's observations with T steps of E environments
        """

    @abstractmethod
    def take(self, rows: np.ndarray, envs: np.ndarray, which: int) -> np.ndarray:
        """
        :param rows: shape [B]
        :param envs: shape [B]
        :param which: ``OBS`` or ``NEXT``
        :return: a copy of what was added, shape [B, ...]
        """

    @abstractmethod
    def holds(self, rows: np.ndarray, envs: np.ndarray) -> np.ndarray:
        """
        :param rows: shape [B]
        :param envs: shape [B]
        :return: whether the observations of these transitions are still there, shape [B]
        """

    @abstractmethod
    def follow(self, rows: np.ndarray, next_rows: np.ndarray, env: int) -> np.ndarray:
        """
        :param rows: shape [B]
        :param next_rows: shape [B]
        :param env: environment
        :return: whether the observations of the one are the next observations of the other, shape [B]
        """

    @abstractmethod
    def recover(self) -> None:
        """Make good what an exception has left half done; what was not added completely is not there."""

    @abstractmethod
    def check_valid(self) -> None:
        """
        :raises ValueError: if something is inconsistent
        """


class WholeStorage(ObservationStorage):
    """Observations and next observations in two arrays, as in SB3."""

    def __init__(self, rows: int, n_envs: int, shape: tuple[int, ...], dtype: np.dtype) -> None:
        super().__init__(rows, n_envs, shape, dtype)
        self.arrays = [unallocated((rows, n_envs, *shape), dtype) for _ in (OBS, NEXT)]

    def nbytes(self, rows: int) -> int:
        return 2 * rows * self.n_envs * int(np.prod(self.shape)) * self.dtype.itemsize

    def allocate(self) -> None:
        self.arrays = [np.zeros((self.rows, self.n_envs, *self.shape), self.dtype) for _ in (OBS, NEXT)]

    def _continues(self, envs: np.ndarray, obs: np.ndarray, last_rows: np.ndarray) -> np.ndarray:
        return same_bits(self.arrays[NEXT][self._at(last_rows, envs)], obs)

    def _add(self, rows: np.ndarray, envs: np.ndarray, obs: np.ndarray, next_obs: np.ndarray, continues: np.ndarray) -> None:
        where = self._at(rows, envs)
        self.arrays[OBS][where] = obs
        self.arrays[NEXT][where] = next_obs

    def block(self) -> WholeBlock:
        return WholeBlock(*(array[: self.filled] for array in self.arrays))

    def first(self, block: WholeBlock) -> np.ndarray:
        return block.observations[0]

    def _extend(self, rows: np.ndarray, envs: np.ndarray, block: WholeBlock, continues: np.ndarray) -> None:
        for array, added in zip(self.arrays, block, strict=True):
            array[rows, envs] = added

    def check_block(self, block: WholeBlock, steps: int, n_envs: int) -> None:
        for array in block:
            check_array("observations", array, (steps, n_envs, *self.shape), self.dtype)

    def _at(self, rows: np.ndarray, envs: np.ndarray) -> tuple[np.ndarray, np.ndarray] | int:
        """:return: an index of the arrays; of environments in step a row, which needs no copy of each"""
        in_step = len(envs) == self.n_envs and (rows == rows[0]).all()
        return int(rows[0]) if in_step else (rows, envs)

    def take(self, rows: np.ndarray, envs: np.ndarray, which: int) -> np.ndarray:
        return self.arrays[which][rows, envs]

    def holds(self, rows: np.ndarray, envs: np.ndarray) -> np.ndarray:
        return np.ones(len(rows), dtype=bool)

    def follow(self, rows: np.ndarray, next_rows: np.ndarray, env: int) -> np.ndarray:
        chunks = zip(*(np.array_split(part, len(rows) // 256 + 1) for part in (rows, next_rows)), strict=True)
        same = [same_bits(self.arrays[NEXT][before, env], self.arrays[OBS][after, env]) for before, after in chunks]
        return np.concatenate(same)

    def recover(self) -> None:
        pass  # rows are independent

    def check_valid(self) -> None:
        pass

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "arrays": [array[: self.filled] for array in self.arrays]}

    def __setstate__(self, state: dict[str, Any]) -> None:
        filled_arrays = state.pop("arrays")
        vars(self).update(state)
        WholeStorage.allocate(self)  # not a subclass's method, which would overwrite arrays that were just loaded
        for array, filled in zip(self.arrays, filled_arrays, strict=True):
            array[: self.filled] = filled


def same_bits(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """
    :param a: shape [E, ...]
    :param b: of the same shape and dtype
    :return: whether they are equal to the bit (0.0 is not -0.0), shape [E]
    """
    if a.ndim == 1:  # single numbers
        a, b = a[:, None], b[:, None]
    word = a.dtype.itemsize
    if a.strides[-1] == b.strides[-1] == word:  # as few and as long words as will do
        word = next(size for size in (8, 4, 2, 1) if a.shape[-1] * a.dtype.itemsize % size == 0)
    same = a.view(f"u{word}") == b.view(f"u{word}")
    return same.reshape(len(a), int(np.prod(same.shape[1:]))).all(axis=1)
