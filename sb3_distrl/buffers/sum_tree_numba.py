"""The inner loops of :class:`~sb3_distrl.buffers.SumTree`, compiled."""

import numpy as np
from numba import njit

from sb3_distrl.buffers.sum_tree_numpy import WIDTH


@njit(cache=True)
def total_of(row: np.ndarray) -> float:
    total = 0.0
    for mass in row:
        total += mass
    return total


@njit(cache=True, boundscheck=True)
def update(
    masses: np.ndarray, blocks: np.ndarray, groups: np.ndarray, indices: np.ndarray, new: np.ndarray, only_drawable: bool
) -> None:
    for i, index in enumerate(indices):
        if not only_drawable or masses[index // WIDTH, index % WIDTH] > 0:
            masses[index // WIDTH, index % WIDTH] = new[i]
    for index in indices:
        block = index // WIDTH
        blocks[block // WIDTH, block % WIDTH] = total_of(masses[block])
    for index in indices:
        group = index // WIDTH // WIDTH
        groups[group] = total_of(blocks[group])


@njit(cache=True)
def child_of(row: np.ndarray, value: float) -> tuple[int, float]:
    value = min(value, np.nextafter(total_of(row), 0.0))
    child, before = 0, 0.0
    while before + row[child] <= value:
        before += row[child]
        child += 1
    return child, value - before


@njit(cache=True)
def draw(masses: np.ndarray, blocks: np.ndarray, groups: np.ndarray, u: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    sums = groups.cumsum()
    size = len(u) if sums[-1] > 0 else 0
    indices, found = np.empty(size, np.int64), np.empty(size, np.float64)
    for i in range(size):
        value = min((i + u[i]) * (sums[-1] / len(u)), np.nextafter(sums[-1], 0.0))
        node = np.searchsorted(sums, value, side="right")
        if node > 0:
            value -= sums[node - 1]
        child, value = child_of(blocks[node], value)
        node = node * WIDTH + child
        child, _ = child_of(masses[node], value)
        indices[i], found[i] = node * WIDTH + child, masses[node, child]
    return indices, found


def warm_up() -> None:
    """Compile the functions above for the types that the sum tree uses, or load them from the cache."""
    masses, blocks, groups = np.zeros((WIDTH, WIDTH)), np.zeros((1, WIDTH)), np.zeros(1)
    update(masses, blocks, groups, np.zeros(1, np.int64), np.ones(1), False)
    draw(masses, blocks, groups, np.zeros(1))
