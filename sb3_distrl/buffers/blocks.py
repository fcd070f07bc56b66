"""Blocks of transitions, which one replay buffer sends to another."""

from collections import Counter
from typing import Any, NamedTuple

import numpy as np


class WholeBlock(NamedTuple):
    """Observations and next observations of T steps of E environments, both of shape [T, E, ...]."""

    observations: np.ndarray
    next_observations: np.ndarray


class FrameBlock(NamedTuple):
    """
    Observations of T steps of E environments, with each slice once (see :class:`~sb3_distrl.buffers.frames.FrameStorage`).

    Observations are cut along ``axis``. ``slices`` has those of each environment, shape [K, ...], beginning with the first
    observation in full; ``newest``, shape [T, E, 2], are the indices of the last slices of observations and next observations.
    """

    axis: int
    slices: list[np.ndarray]
    newest: np.ndarray
    shifts_seen: Counter[int]


StoredBlock = WholeBlock | FrameBlock | dict[str, "WholeBlock | FrameBlock"]  # a dict for Dict spaces


class Block(NamedTuple):
    """T steps of E environments: the buffer's row arrays, shape [T, E, ...], observations, and priorities, shape [T, E]."""

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
        """Whether the episode ended (terminated or truncated), shape [T, E]."""
        return self.arrays["_dones"]

    @property
    def timeouts(self) -> np.ndarray:
        """Whether the episode was truncated, shape [T, E]."""
        return self.arrays["timeouts"]

    def nbytes(self) -> int:
        return nbytes(self)


def nbytes(part: Any) -> int:
    """:return: bytes of all arrays in nested tuples, lists and dicts"""
    if isinstance(part, (tuple, list, dict)):
        return sum(map(nbytes, part.values() if isinstance(part, dict) else part))
    return part.nbytes if isinstance(part, np.ndarray) else 0
