"""Where a replay buffer keeps observations: what all storages have in common, and the one that keeps them in whole."""

from abc import ABC, abstractmethod
from typing import Any

import numpy as np
from numpy.typing import DTypeLike

from sb3_distrl.buffers.blocks import StoredBlock, WholeBlock
from sb3_distrl.validation import check_array, check_finite, with_env_axis

OBS, NEXT = 0, 1  # which of a transition's two observations is meant
Obs = np.ndarray | dict[str, np.ndarray]

REMEDY = "fix the environment, or replace what is not finite in a wrapper"
SHAPES = (
    "give observations of the observation space, one for each environment. Wrappers that change observations, such as "
    "VecTransposeImage and VecFrameStack, belong inside VecNormalize, not around it"
)


def unallocated(shape: tuple[int, ...], dtype: DTypeLike) -> np.ndarray:
    """:return: read-only zeros that take no memory"""
    return np.broadcast_to(np.zeros((), dtype), shape)


class ObservationStorage(ABC):
    """
    The observations and next observations of all transitions in a replay buffer.

    The observations of a Dict space are dicts in all arguments and results. Memory is taken by :meth:`allocate`.
    """

    allocated = False

    @abstractmethod
    def prepared(self, obs: Any, next_obs: Any, key: str = "") -> tuple[Any, Any]:
        """
        Check the observations of a step. Before memory is allocated, they also tell how observations are stacked.

        :param obs: s_t as the environments give it, shape [n_envs, ...]
        :param next_obs: s_{t+1}
        :param key: what to add to the arguments' names in errors
        :return: both, as :meth:`continues` and :meth:`add` take them
        :raises ValueError: if one is not finite, or does not have the shape of its space
        """

    @abstractmethod
    def prepared_block(self, block: Any) -> Any:
        """
        Before memory is allocated, the block also tells how observations are stacked.

        :param block: of another storage of this kind
        :return: its first observations, as :meth:`continues` takes them, shape [E, ...]
        """

    @abstractmethod
    def nbytes(self, rows: int) -> int:
        """:return: memory that so many rows take, in bytes"""

    @abstractmethod
    def allocate(self) -> None:
        """Make the arrays."""

    @abstractmethod
    def continues(self, envs: np.ndarray, obs: Any) -> np.ndarray:
        """:return: whether these are the environments' newest next observations, to the bit, shape [E]"""

    @abstractmethod
    def add(self, rows: np.ndarray, envs: np.ndarray, obs: Any, next_obs: Any, continues: np.ndarray) -> None:
        """
        Add a transition of each of E environments.

        :param rows: where to, shape [1, E]
        :param envs: whose they are, shape [E]
        :param obs: of :meth:`prepared`
        :param next_obs: of :meth:`prepared`
        :param continues: of :meth:`continues`
        """

    @abstractmethod
    def block(self) -> StoredBlock:
        """:return: all that was added since the storage was allocated, of which nothing may have been overwritten"""

    @abstractmethod
    def add_block(self, rows: np.ndarray, envs: np.ndarray, block: Any, continues: np.ndarray) -> None:
        """
        Add T transitions of each of E environments.

        :param rows: where to, shape [T, E]
        :param envs: whose they are, shape [E]
        :param block: of another storage of this kind
        :param continues: of :meth:`continues` for the first observations
        """

    @abstractmethod
    def check_block(self, block: Any, steps: int, n_envs: int) -> None:
        """:raises ValueError: if it is not a block of such observations with T steps of E environments"""

    @abstractmethod
    def take(self, rows: np.ndarray, envs: np.ndarray, which: int) -> Obs:
        """:return: a copy of ``OBS`` or ``NEXT`` of these transitions, shape [B, ...]"""

    @abstractmethod
    def array(self, which: int) -> Obs:
        """
        :return: ``OBS`` or ``NEXT`` of all transitions, shape [rows, n_envs, ...]; before memory is allocated, read-only zeros
        :raises AttributeError: if frames are kept once
        """

    @abstractmethod
    def holds(self, rows: np.ndarray, envs: np.ndarray) -> np.ndarray:
        """:return: whether the observations of these transitions are still there, shape [B]"""

    @abstractmethod
    def follow(self, rows: np.ndarray, next_rows: np.ndarray, env: int) -> np.ndarray:
        """:return: whether the observations of ``next_rows`` are the next observations of ``rows``, shape [B]"""

    @abstractmethod
    def repair(self) -> None:
        """Repair after an interrupted :meth:`add` or :meth:`add_block`; what was not added completely is not there."""

    @abstractmethod
    def check_valid(self) -> None:
        """:raises ValueError: if something is inconsistent"""


class ArrayStorage(ObservationStorage):
    """
    A storage for a space that is no Dict.

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
        """Note which rows, shape [T, E], were added last."""
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
        """:return: an index of the arrays; of environments in step a row, which needs no copy of each"""
        in_step = len(envs) == self.n_envs and (rows == rows[0]).all()
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
    if a.strides[-1] == b.strides[-1] == word:  # compare as few and as long words as possible
        word = next(size for size in (8, 4, 2, 1) if a.shape[-1] * a.dtype.itemsize % size == 0)
    same = a.view(f"u{word}") == b.view(f"u{word}")
    return same.reshape(len(a), int(np.prod(same.shape[1:]))).all(axis=1)
