"""Transitions on their way from one replay buffer to another."""

from collections import Counter
from typing import Any, NamedTuple

import numpy as np


class WholeBlock(NamedTuple):
    """Observations and next observations of T steps of E environments, both of shape [T, E, ...]."""

    observations: np.ndarray
    next_observations: np.ndarray


class FrameBlock(NamedTuple):
    """
    Observations of T steps of E environments with each slice once, see :class:`~sb3_distrl.buffers.frames.FrameStorage`.

    Observations are cut along ``axis``. ``slices`` holds the slices of each environment, shape [K, ...]; ``newest``, shape
    [T, E, 2], says which of them an observation and a next observation end with. The first observation stands at the
    beginning of ``slices`` in full.
    """

    axis: int
    slices: list[np.ndarray]
    newest: np.ndarray
    shifts_seen: Counter[int]


StoredBlock = WholeBlock | FrameBlock | dict[str, "WholeBlock | FrameBlock"]  # or of each key of a Dict


class Block(NamedTuple):
    """
    T steps of E environments: the arrays of the buffer's rows by name, shape [T, E, ...], the observations, and priorities,
    shape [T, E].
    """

    arrays: dict[str, np.ndarray]
    observations: StoredBlock
    priorities: np.ndarray | None

    @property
    def actions(self) -> np.ndarray:
        """Shape [T, E, action_dim]."""
        return self.arrays["actions"]

    @property
    def rewards(self) -> np.ndarray:
        """Shape [T, E]."""
        return self.arrays["rewards"]

    @property
    def dones(self) -> np.ndarray:
        """Whether episodes ended there, terminated or truncated, shape [T, E]."""
        return self.arrays["_dones"]

    @property
    def timeouts(self) -> np.ndarray:
        """Whether they were truncated there, shape [T, E]."""
        return self.arrays["timeouts"]

    def nbytes(self) -> int:
        """:return: of all arrays"""
        return nbytes(self)


def nbytes(part: Any) -> int:
    """:return: of all arrays in nested tuples, lists and dicts"""
    if isinstance(part, (tuple, list, dict)):
        return sum(map(nbytes, part.values() if isinstance(part, dict) else part))
    return part.nbytes if isinstance(part, np.ndarray) else 0
