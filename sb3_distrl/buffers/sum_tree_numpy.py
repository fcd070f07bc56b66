"""The inner loops of :class:`~sb3_distrl.buffers.SumTree`, in numpy."""

import numpy as np

WIDTH = 32  # children of a node


def update(
    masses: np.ndarray, blocks: np.ndarray, groups: np.ndarray, indices: np.ndarray, new: np.ndarray, only_drawable: bool
) -> None:
    leaves = masses.reshape(-1)
    if only_drawable:
        drawable = leaves[indices] > 0
        indices, new = indices[drawable], new[drawable]
    leaves[indices] = new
    changed = indices // WIDTH
    blocks.reshape(-1)[changed] = masses[changed].cumsum(axis=1)[:, -1]
    changed //= WIDTH
    groups[changed] = blocks[changed].cumsum(axis=1)[:, -1]


def draw(masses: np.ndarray, blocks: np.ndarray, groups: np.ndarray, u: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    sums = groups.cumsum()
    if sums[-1] == 0:
        return np.empty(0, dtype=np.int64), np.empty(0)
    values = (np.arange(len(u)) + u) * (sums[-1] / len(u))
    values = np.minimum(values, np.nextafter(sums[-1], 0.0))
    nodes = sums.searchsorted(values, side="right")
    values -= np.where(nodes > 0, sums[nodes - 1], 0.0)
    children, values = child_of(blocks[nodes], values)
    nodes = nodes * WIDTH + children
    children, _ = child_of(masses[nodes], values)
    return nodes * WIDTH + children, masses[nodes, children]


def child_of(rows: np.ndarray, values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """:return: the child in each row [B, 32] whose running sum first exceeds the value, and the rest of the value there"""
    sums = rows.cumsum(axis=1)
    values = np.minimum(values, np.nextafter(sums[:, -1], 0.0))
    children = (sums > values[:, None]).argmax(axis=1)
    before = np.where(children > 0, sums[np.arange(len(values)), children - 1], 0.0)
    return children, values - before
