"""Observations with each frame of a stack stored once."""

from collections import Counter
from typing import Any, NamedTuple

import numpy as np

from sb3_distrl.buffers.blocks import FrameBlock
from sb3_distrl.buffers.storage import NEXT, OBS, ArrayStorage, same_bits
from sb3_distrl.validation import check_array

SLACK = 0.02  # spare room in a ring, relative to what a single endless episode needs
SETTLE = 100  # transitions from which the shift of observations is learned


class Rings(NamedTuple):
    """A ring of slices for each environment."""

    slices: np.ndarray  # [n_envs, size + n_slices - 1, ...]
    windows: np.ndarray  # a view of slices, [n_envs, size, n_slices, ...]
    firsts: np.ndarray  # [n_envs]; slices with lower numbers were lost when these rings replaced smaller ones

    @property
    def size(self) -> int:
        """Slices in a ring."""
        return self.windows.shape[1]

    def put(self, envs: np.ndarray, positions: np.ndarray, slices: np.ndarray) -> None:
        """Write slices [E, k, ...] to positions [E, k] of these environments."""
        places = positions % self.size
        self.slices[envs[:, None], places] = slices
        e, k = np.nonzero(places < self.windows.shape[2] - 1)
        self.slices[envs[e], places[e, k] + self.size] = slices[e, k]

    def close(self) -> None:
        """Repeat the first slices after the last, as :meth:`put` does."""
        self.slices[:, self.size :] = self.slices[:, : self.windows.shape[2] - 1]


class FrameStorage(ArrayStorage):
    """
    Observations cut into slices along the axis on which frames are stacked, with each slice stored once.

    Each environment has a ring of slices; an observation is a window of it, identified by its newest slice. If the next
    observation is the observation shifted by s slices, bit for bit, only its last s slices are added, where s is a frame's
    number of channels. If not, or at the start of an episode, all slices are added. So observations are returned exactly as
    they were added, however the stack was padded. The first transitions show which s to expect.

    A ring has room for a single endless episode and 2% more. Each episode takes the slices of one more observation: with short
    episodes the ring is full before the rows are, and the oldest transitions are lost (see :meth:`holds`).

    :param lossless: make rings so large that nothing is lost before its row is overwritten
    """

    def __init__(self, rows: int, n_envs: int, shape: tuple[int, ...], dtype: np.dtype, lossless: bool = False) -> None:
        super().__init__(rows, n_envs, shape, dtype)
        self.lossless = lossless
        self._stacked_on(min(0, len(shape) - 1, key=lambda axis: shape[axis]), shift=1)
        self.shifts_seen: Counter[int] = Counter()

    def _stacked_on(self, axis: int, shift: int) -> None:
        """Set the axis on which frames are stacked and the expected shift, in slices."""
        self.axis, self.shift, self.n_slices = axis, shift, self.shape[axis]

    def prepared(self, obs: Any, next_obs: Any, key: str = "") -> tuple[np.ndarray, np.ndarray]:
        obs, next_obs = super().prepared(obs, next_obs, key)
        if not self.allocated and not self.lossless:
            self._look_for_stack(obs, next_obs)
        return as_slices(obs, self.axis), as_slices(next_obs, self.axis)

    def _look_for_stack(self, obs: np.ndarray, next_obs: np.ndarray) -> None:
        axes, shifts = sorted({0, len(self.shape) - 1}, key=lambda axis: self.shape[axis]), {}
        for axis in axes:
            slices = [as_slices(part, axis) for part in (obs, next_obs)]
            shifts[axis] = next(shift for shift in possible_shifts(self.shape[axis]) if shifted_by(shift, *slices).all())
        axis = next((axis for axis in axes if shifts[axis] < self.shape[axis]), axes[0])
        self._stacked_on(axis, max(1, shifts[axis]))

    def ring_size(self, rows: int) -> int:
        """:return: number of slices in a ring; those of one transition always fit"""
        return 2 * rows * self.n_slices if self.lossless else int((1 + SLACK) * rows * self.shift) + 2 * self.n_slices

    def nbytes(self, rows: int) -> int:
        slice_bytes = int(np.prod(self.shape)) // self.n_slices * self.dtype.itemsize
        slices = self.ring_size(rows) + self.n_slices - 1
        return self.n_envs * (slices * slice_bytes + 2 * 8 * rows)

    def allocate(self) -> None:
        self.newest = np.zeros((self.rows, self.n_envs, 2), dtype=np.int64)  # slices are numbered from the first one added
        self.heads = np.zeros(self.n_envs, dtype=np.int64)  # slices added so far
        self.rings = self._new_rings(self.ring_size(self.rows), firsts=np.zeros(self.n_envs, dtype=np.int64))
        self.allocated = True

    def _new_rings(self, size: int, firsts: np.ndarray) -> Rings:
        slice_shape = tuple(np.delete(self.shape, self.axis))
        # The first slices are repeated after the last, so that each window is contiguous
        slices = np.zeros((self.n_envs, size + self.n_slices - 1, *slice_shape), self.dtype)
        windows = np.lib.stride_tricks.sliding_window_view(slices, self.n_slices, axis=1)
        return Rings(slices, np.moveaxis(windows, -1, 2), firsts)

    # Adding

    def continues(self, envs: np.ndarray, obs: np.ndarray) -> np.ndarray:
        last_rows = self.last_rows[envs]
        newest = self.newest[last_rows, envs, NEXT]
        # After an interrupted add, other slices may follow in the ring
        same = same_bits(self._windows(newest, envs), obs) & (newest == self.heads[envs] - 1)
        return (last_rows >= 0) & same

    def add(self, rows: np.ndarray, envs: np.ndarray, obs: np.ndarray, next_obs: np.ndarray, continues: np.ndarray) -> None:
        if not continues.all():
            self._append(envs[~continues], obs[~continues])
        self.newest[rows[0], envs, OBS] = self.heads[envs] - 1
        settled = self.shifts_seen.total() >= SETTLE
        left = np.ones(len(envs), dtype=bool)
        for shift in (self.shift, self.n_slices) if settled else possible_shifts(self.n_slices):
            fits = left & shifted_by(shift, obs, next_obs)
            self._append(envs[fits], next_obs[fits, self.n_slices - shift :])
            if shift > 0:  # an unchanged observation says nothing about the shift
                self.shifts_seen[shift] += int(fits.sum())
            left &= ~fits
            if not left.any():
                break
        self.newest[rows[0], envs, NEXT] = self.heads[envs] - 1
        if not settled:
            self._learn_shift()
        self._count(rows, envs)

    def _append(self, envs: np.ndarray, slices: np.ndarray) -> None:
        """Add slices [E, k, ...] to the rings of these environments."""
        positions = self.heads[envs, None] + np.arange(slices.shape[1])  # [E, k]
        self.heads[envs] += slices.shape[1]  # first, so that slices half written by an interrupted add count as overwritten
        self.rings.put(envs, positions[:, -self.rings.size :], slices[:, -self.rings.size :])

    def block(self) -> FrameBlock:
        assert (self.heads <= self.rings.size).all(), "slices were overwritten"
        slices = [each[:head] for each, head in zip(self.rings.slices, self.heads, strict=True)]
        return FrameBlock(self.axis, slices, self.newest[: self.filled], self.shifts_seen)

    def prepared_block(self, block: FrameBlock) -> np.ndarray:
        if not self.allocated:
            self._stacked_on(block.axis, most_frequent(block.shifts_seen) or 1)
        return np.stack([slices[: self.n_slices] for slices in block.slices])

    def add_block(self, rows: np.ndarray, envs: np.ndarray, block: FrameBlock, continues: np.ndarray) -> None:
        for e, env in enumerate(envs):
            there = self.n_slices if continues[e] else 0  # slices of the first observation
            begin = self.heads[env] - there
            self._append(envs[e : e + 1], block.slices[e][None, there:])
            self.newest[rows[:, e], env] = block.newest[:, e] + begin
        settled = self.shifts_seen.total() >= SETTLE
        self.shifts_seen.update(block.shifts_seen)
        if not settled:
            self._learn_shift()
        self._count(rows, envs)

    def check_block(self, block: FrameBlock, steps: int, n_envs: int) -> None:
        if not isinstance(block, FrameBlock):
            raise ValueError(f"observations are a {type(block).__name__} and should have each frame once.")
        slice_shape = tuple(np.delete(self.shape, self.axis))
        check_array("newest", block.newest, (steps, n_envs, 2), np.dtype(np.int64))
        if block.axis != self.axis or len(block.slices) != n_envs:
            raise ValueError(
                f"observations of {len(block.slices)} environments, cut along axis={block.axis}, should be of {n_envs}, cut "
                f"along axis={self.axis}."
            )
        for slices, newest in zip(block.slices, block.newest.swapaxes(0, 1), strict=True):
            check_array("observations", slices, (None, *slice_shape), self.dtype)
            if newest.min() < self.n_slices - 1 or newest.max() >= len(slices):
                raise ValueError(f"observations end with slices {newest.min()} to {newest.max()} of {len(slices)}.")

    def _learn_shift(self) -> None:
        """Expect the most frequent shift; if this changes the size of the rings, keep as many slices as fit."""
        self.shift = most_frequent(self.shifts_seen) or self.shift
        size, old = self.ring_size(self.rows), self.rings
        if size == old.size:
            return
        rings = self._new_rings(size, firsts=np.maximum(old.firsts, self.heads - min(size, old.size)))
        for env, head in enumerate(self.heads):
            kept = np.arange(rings.firsts[env], head)
            rings.put(np.array([env]), kept[None], old.slices[[env]][:, kept % old.size])
        self.rings = rings

    # Taking

    def take(self, rows: np.ndarray, envs: np.ndarray, which: int) -> np.ndarray:
        windows = self._windows(self.newest[rows, envs, which], envs)
        return windows if self.axis == 0 else np.moveaxis(windows, 1, self.axis + 1)

    def _windows(self, newest: np.ndarray, envs: np.ndarray) -> np.ndarray:
        """:return: the observations that end with the ``newest`` slices, shape [B, n_slices, ...]"""
        return self.rings.windows[envs, (newest - (self.n_slices - 1)) % self.rings.size]

    def holds(self, rows: np.ndarray, envs: np.ndarray) -> np.ndarray:
        oldest = self.newest[rows, envs, OBS] - (self.n_slices - 1)
        return oldest >= np.maximum(self.rings.firsts, self.heads - self.rings.size)[envs]

    def follow(self, rows: np.ndarray, next_rows: np.ndarray, env: int) -> np.ndarray:
        return self.newest[next_rows, env, OBS] == self.newest[rows, env, NEXT]

    def array(self, which: int) -> np.ndarray:
        name = ("observations", "next_observations")[which]
        raise AttributeError(
            f"There is no array of {name} with optimize_memory_usage=True, which keeps each frame once: use sample(), "
            "or optimize_memory_usage=False."
        )

    def repair(self) -> None:
        self.rings.close()

    def check_valid(self) -> None:
        slices = self.rings.slices
        if not np.array_equal(slices[:, self.rings.size :], slices[:, : self.n_slices - 1]):
            raise ValueError("The replay buffer is broken: the end of a ring of frames does not repeat its beginning.")
        newest = self.newest[: self.filled]
        there = (np.arange(len(newest))[:, None] < self.filled_by_env)[..., None]
        if not ((newest >= self.n_slices - 1) & (newest < self.heads[:, None]) | ~there).all():
            raise ValueError("The replay buffer is broken: observations refer to frames that were never added.")
        added = newest[..., NEXT] - newest[..., OBS]
        if not ((added >= 0) & (added <= self.n_slices)).all():
            raise ValueError("The replay buffer is broken: next observations are before observations, or too far after them.")

    def __getstate__(self) -> dict[str, Any]:
        rings = self.rings
        slices = [each[: min(head, rings.size)] for each, head in zip(rings.slices, self.heads, strict=True)]
        return {**vars(self), "newest": self.newest[: self.filled], "rings": (rings.size, rings.firsts, slices)}

    def __setstate__(self, state: dict[str, Any]) -> None:
        newest, (size, firsts, all_slices) = state.pop("newest"), state.pop("rings")
        vars(self).update(state)
        self.newest = np.zeros((self.rows, self.n_envs, 2), dtype=np.int64)
        self.newest[: self.filled] = newest
        self.rings = self._new_rings(size, firsts)
        for ring, slices in zip(self.rings.slices, all_slices, strict=True):
            ring[: len(slices)] = slices
        self.rings.close()
        self.allocated = True


def most_frequent(shifts_seen: Counter[int]) -> int | None:
    """:return: the most frequent shift in slices, if there is one"""
    return shifts_seen.most_common(1)[0][0] if shifts_seen else None


def possible_shifts(n_slices: int) -> list[int]:
    """:return: shifts by whole frames of equal size, in slices; 0 is an unchanged observation"""
    return [0, *(shift for shift in range(1, n_slices + 1) if n_slices % shift == 0)]


def as_slices(obs: np.ndarray, axis: int) -> np.ndarray:
    """:return: C-contiguous observations, shape [n_envs, n_slices, ...]"""
    return np.ascontiguousarray(obs if axis == 0 else np.moveaxis(obs, axis + 1, 1))


def shifted_by(shift: int, obs: np.ndarray, next_obs: np.ndarray) -> np.ndarray:
    """:return: whether ``next_obs`` is ``obs`` shifted by so many slices, shape [n_envs]"""
    return same_bits(next_obs[:, : obs.shape[1] - shift], obs[:, shift:])
