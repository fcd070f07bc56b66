"""A sum tree in vectorised numpy."""

import numpy as np


class SumTree:
    """
    Non-negative masses with their sums, for drawing in proportion to mass (Schaul et al. 2016, appendix B.2.1).

    One float64 array holds the whole binary tree: the root at 1, the children of node i at 2i and 2i + 1, the leaves at
    the end. Sums are added up anew on each change, never adjusted by differences, so that no error builds up and a node
    is zero exactly when all its leaves are.

    :param capacity: number of leaves, at least 1
    """

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self.depth = (capacity - 1).bit_length()
        self.first_leaf = 1 << self.depth
        self.nodes = np.zeros(2 * self.first_leaf, dtype=np.float64)

    @property
    def total(self) -> float:
        """The sum of all masses."""
        return float(self.nodes[1])

    def __getitem__(self, indices: np.ndarray) -> np.ndarray:
        """
        :param indices: leaves, shape [B]
        :return: their masses, shape [B]
        """
        return self.nodes[indices + self.first_leaf]

    def update(self, indices: np.ndarray, masses: np.ndarray | float) -> None:
        """
        Set masses; where an index stands more than once, its last mass counts.

        :param indices: leaves, shape [B]
        :param masses: non-negative and finite, shape [B] or one for all
        """
        nodes = indices + self.first_leaf
        self.nodes[nodes] = masses
        for _ in range(self.depth):
            nodes = nodes >> 1
            self.nodes[nodes] = self.nodes[2 * nodes] + self.nodes[2 * nodes + 1]

    def find(self, values: np.ndarray) -> np.ndarray:
        """
        The leaf at which the running sum of masses first exceeds each value.

        A leaf without mass is never returned, not even for a value that rounding has brought up to the total or past it.

        :param values: points in [0, total], shape [B]; the total must be positive
        :return: leaves, shape [B]
        """
        assert self.total > 0, "nothing to find in an empty tree"
        nodes = np.ones(len(values), dtype=np.int64)
        values = values.astype(np.float64)
        for _ in range(self.depth):
            left = 2 * nodes
            left_mass = self.nodes[left]
            go_right = (values >= left_mass) & (self.nodes[left + 1] > 0)
            values -= left_mass * go_right
            nodes = left + go_right
        return nodes - self.first_leaf
