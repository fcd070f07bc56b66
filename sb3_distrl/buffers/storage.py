"""Where a replay buffer keeps observations; here, each in whole."""

from abc import ABC, abstractmethod
from typing import Any

import numpy as np

OBS, NEXT = 0, 1  # which of a transition's two observations is meant


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
        self.filled = 0  # rows, of the environment that has most
        self.last_rows = np.full(n_envs, -1)  # where each environment's newest transition is

    @abstractmethod
    def nbytes(self, rows: int) -> int:
        """
        :param rows: transitions of each environment
        :return: memory that they take, in bytes
        """

    @abstractmethod
    def allocate(self) -> None:
        """Make the arrays; before that, a storage takes no memory and holds nothing."""

    def arranged(self, obs: np.ndarray) -> np.ndarray:
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
        :param obs: of :meth:`arranged`, shape [E, ...]
        :param next_obs: of :meth:`arranged`, shape [E, ...]
        :param continues: whether ``obs`` is the environment's next observation that was added last, shape [E]
        """
        self._add(rows, envs, obs, next_obs, continues)
        self._added(rows, envs)

    def _added(self, rows: np.ndarray, envs: np.ndarray) -> None:
        """
        :param rows: of the newest transitions, shape [E]
        :param envs: shape [E]
        """
        self.filled = max(self.filled, int(rows.max()) + 1)
        self.last_rows[envs] = rows

    def continues(self, envs: np.ndarray, obs: np.ndarray) -> np.ndarray:
        """
        :param envs: shape [E]
        :param obs: of :meth:`arranged`, shape [E, ...]
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
        self.allocate()
        for array, filled in zip(self.arrays, filled_arrays, strict=True):
            array[: self.filled] = filled


def same_bits(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """
    :param a: shape [E, ...]
    :param b: of the same shape and dtype
    :return: whether they are equal to the bit (0.0 is not -0.0), shape [E]
    """
    word = a.dtype.itemsize
    if a.strides[-1] == b.strides[-1] == word:  # as few and as long words as will do
        word = next(size for size in (8, 4, 2, 1) if a.shape[-1] * a.dtype.itemsize % size == 0)
    same = a.view(f"u{word}") == b.view(f"u{word}")
    return same.reshape(len(a), int(np.prod(same.shape[1:]))).all(axis=1)
