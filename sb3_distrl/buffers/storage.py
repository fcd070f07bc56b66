"""Storages of observations: the interface, and a storage of whole observations."""

from abc import ABC, abstractmethod
from typing import Any

import numpy as np
from numpy.typing import DTypeLike

from sb3_distrl.buffers.blocks import StoredBlock, WholeBlock
from sb3_distrl.validation import check_array, check_finite, with_env_axis

OBS, NEXT = 0, 1  # a transition's observation and next observation
Obs = np.ndarray | dict[str, np.ndarray]

REMEDY = "fix the environment, or replace such values in a wrapper"
SHAPES = (
    "give observations of the observation space, one for each environment. Wrappers that change observations, such as "
    "VecTransposeImage and VecFrameStack, belong inside VecNormalize, not around it"
)


def unallocated(shape: tuple[int, ...], dtype: DTypeLike) -> np.ndarray:
    """:return: read-only zeros that take no memory"""
    return np.broadcast_to(np.zeros((), dtype), shape)


class ObservationStorage(ABC):
    """
    The observations and next observations of all transitions in a replay buffer; those of a Dict space are dicts.

    Arguments: ``rows`` and ``envs``, shape [B] unless given, locate transitions; ``block`` is that of another storage of the
    same class; ``continues``, shape [E], is the result of :meth:`continues` for the (first) observations to add.
    """

    allocated = False

    @abstractmethod
    def prepared(self, obs: Any, next_obs: Any, key: str = "") -> tuple[Any, Any]:
        """
        Check the observations of a step, shape [n_envs, ...], and convert them for :meth:`continues` and :meth:`add`.

        Before memory is allocated, they also show how observations are stacked.

        :param key: suffix of the arguments' names in errors
        :raises ValueError: for values that are not finite, or a wrong shape
        """

    @abstractmethod
    def prepared_block(self, block: Any) -> Any:
        """Like :meth:`prepared`, for a block: return its first observations for :meth:`continues`, shape [E, ...]."""

    @abstractmethod
    def nbytes(self, rows: int) -> int:
        """:return: bytes of memory for so many rows"""

    @abstractmethod
    def allocate(self) -> None:
        """Create the arrays."""

    @abstractmethod
    def continues(self, envs: np.ndarray, obs: Any) -> np.ndarray:
        """:return: whether observations equal the environments' newest next observations to the bit, shape [E]"""

    @abstractmethod
    def add(self, rows: np.ndarray, envs: np.ndarray, obs: Any, next_obs: Any, continues: np.ndarray) -> None:
        """Add a transition from :meth:`prepared` for each of E environments ``envs``, in ``rows`` [1, E]."""

    @abstractmethod
    def block(self) -> StoredBlock:
        """:return: all observations added; none may have been overwritten"""

    @abstractmethod
    def add_block(self, rows: np.ndarray, envs: np.ndarray, block: Any, continues: np.ndarray) -> None:
        """Add T transitions of each of E environments ``envs``, in ``rows`` [T, E]."""

    @abstractmethod
    def check_block(self, block: Any, steps: int, n_envs: int) -> None:
        """:raises ValueError: if the block has other observations, steps or environments"""

    @abstractmethod
    def take(self, rows: np.ndarray, envs: np.ndarray, which: int) -> Obs:
        """:return: a copy of the transitions' ``OBS`` or ``NEXT``, shape [B, ...]"""

    @abstractmethod
    def array(self, which: int) -> Obs:
        """
        :return: ``OBS`` or ``NEXT`` of all transitions, shape [rows, n_envs, ...]; read-only zeros before allocation
        :raises AttributeError: if frames are stored once
        """

    @abstractmethod
    def holds(self, rows: np.ndarray, envs: np.ndarray) -> np.ndarray:
        """:return: whether the transitions' observations are still stored, shape [B]"""

    @abstractmethod
    def follow(self, rows: np.ndarray, next_rows: np.ndarray, env: int) -> np.ndarray:
        """:return: whether the observations of ``next_rows`` are the next observations of ``rows``, shape [B]"""

    @abstractmethod
    def repair(self) -> None:
        """Repair after an interrupted :meth:`add` or :meth:`add_block`; incomplete transitions are dropped."""

    @abstractmethod
    def check_valid(self) -> None:
        """:raises ValueError: if something is inconsistent"""


class ArrayStorage(ObservationStorage):
    """A storage of ``rows`` transitions per environment, for any space but Dict."""

    def __init__(self, rows: int, n_envs: int, shape: tuple[int, ...], dtype: np.dtype) -> None:
        self.rows, self.n_envs, self.shape, self.dtype = rows, n_envs, shape, dtype
        self.filled_by_env = np.zeros(n_envs, dtype=np.int64)  # rows
        self.last_rows = np.full(n_envs, -1)  # of each environment's newest transition

    @property
    def filled(self) -> int:
        """Number of rows filled by the environment that has filled most."""
        return int(self.filled_by_env.max())

    def prepared(self, obs: Any, next_obs: Any, key: str = "") -> tuple[np.ndarray, np.ndarray]:
        arrays = []
        for name, given in (("obs", obs), ("next_obs", next_obs)):
            if isinstance(given, dict):
                raise ValueError(f"{name}{key} is a dict and should be an array.")
            array = np.asarray(given)
            check_finite(name + key, array, REMEDY)
            array = with_env_axis(name + key, array, self.n_envs, self.shape, SHAPES)
            arrays.append(array.astype(self.dtype, copy=False))
        return arrays[0], arrays[1]

    def _count(self, rows: np.ndarray, envs: np.ndarray) -> None:
        """Record that rows [T, E] were added."""
        self.filled_by_env[envs] = np.maximum(self.filled_by_env[envs], rows.max(axis=0) + 1)
        self.last_rows[envs] = rows[-1]


class WholeStorage(ArrayStorage):
    """Observations and next observations in two arrays, as in SB3."""

    def __init__(self, rows: int, n_envs: int, shape: tuple[int, ...], dtype: np.dtype) -> None:
        super().__init__(rows, n_envs, shape, dtype)
        self.arrays = [unallocated((rows, n_envs, *shape), dtype) for _ in (OBS, NEXT)]

    def nbytes(self, rows: int) -> int:
        return 2 * rows * self.n_envs * int(np.prod(self.shape)) * self.dtype.itemsize

    def allocate(self) -> None:
        self.arrays = [np.zeros((self.rows, self.n_envs, *self.shape), self.dtype) for _ in (OBS, NEXT)]
        self.allocated = True

    def continues(self, envs: np.ndarray, obs: np.ndarray) -> np.ndarray:
        last_rows = self.last_rows[envs]
        return (last_rows >= 0) & same_bits(self.arrays[NEXT][self._at(last_rows, envs)], obs)

    def add(self, rows: np.ndarray, envs: np.ndarray, obs: np.ndarray, next_obs: np.ndarray, continues: np.ndarray) -> None:
        where = self._at(rows[0], envs)
        self.arrays[OBS][where] = obs
        self.arrays[NEXT][where] = next_obs
        self._count(rows, envs)

    def _at(self, rows: np.ndarray, envs: np.ndarray) -> tuple[np.ndarray, np.ndarray] | int:
        """:return: an index into the arrays; a whole row, if possible, because that avoids copies"""
        in_step = len(envs) == self.n_envs and (rows == rows[0]).all() and (envs[1:] > envs[:-1]).all()
        return int(rows[0]) if in_step else (rows, envs)

    def block(self) -> WholeBlock:
        return WholeBlock(*(array[: self.filled] for array in self.arrays))

    def prepared_block(self, block: WholeBlock) -> np.ndarray:
        return block.observations[0]

    def add_block(self, rows: np.ndarray, envs: np.ndarray, block: WholeBlock, continues: np.ndarray) -> None:
        for array, added in zip(self.arrays, block, strict=True):
            array[rows, envs] = added
        self._count(rows, envs)

    def check_block(self, block: WholeBlock, steps: int, n_envs: int) -> None:
        if not isinstance(block, WholeBlock):
            raise ValueError(f"observations are a {type(block).__name__} and should have whole arrays.")
        for array in block:
            check_array("observations", array, (steps, n_envs, *self.shape), self.dtype)

    def take(self, rows: np.ndarray, envs: np.ndarray, which: int) -> np.ndarray:
        return self.arrays[which][rows, envs]

    def array(self, which: int) -> np.ndarray:
        return self.arrays[which]

    def holds(self, rows: np.ndarray, envs: np.ndarray) -> np.ndarray:
        return np.ones(len(rows), dtype=bool)

    def follow(self, rows: np.ndarray, next_rows: np.ndarray, env: int) -> np.ndarray:
        chunks = zip(*(np.array_split(part, len(rows) // 256 + 1) for part in (rows, next_rows)), strict=True)
        same = [same_bits(self.arrays[NEXT][before, env], self.arrays[OBS][after, env]) for before, after in chunks]
        return np.concatenate(same)

    def repair(self) -> None:
        pass  # rows are independent

    def check_valid(self) -> None:
        pass

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "arrays": [array[: self.filled] for array in self.arrays]}

    def __setstate__(self, state: dict[str, Any]) -> None:
        filled_arrays = state.pop("arrays")
        vars(self).update(state)
        WholeStorage.allocate(self)  # a subclass's method would overwrite arrays that were just loaded
        for array, filled in zip(self.arrays, filled_arrays, strict=True):
            array[: self.filled] = filled


def same_bits(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """:return: whether arrays [E, ...] of the same dtype are equal to the bit (0.0 is not -0.0), shape [E]"""
    if a.ndim == 1:  # single numbers
        a, b = a[:, None], b[:, None]
    word = a.dtype.itemsize
    if a.strides[-1] == b.strides[-1] == word:  # compare as few and as long words as possible
        word = next(size for size in (8, 4, 2, 1) if a.shape[-1] * a.dtype.itemsize % size == 0)
    same = a.view(f"u{word}") == b.view(f"u{word}")
    return same.reshape(len(a), int(np.prod(same.shape[1:]))).all(axis=1)
