"""A sum tree in vectorised numpy, or compiled where numba is installed."""

import warnings
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from types import ModuleType
from typing import Any

import numpy as np

from sb3_distrl.buffers import sum_tree_numpy
from sb3_distrl.buffers.sum_tree_numpy import WIDTH


def _load() -> ModuleType:
    from sb3_distrl.buffers import sum_tree_numba

    sum_tree_numba.warm_up()
    return sum_tree_numba


@cache
def compiled() -> ModuleType | None:
    """Import numba and compile the inner loops (a second the first time), or return ``None`` if numba cannot be used."""
    # In a thread, because Ctrl-C reaches only the main thread, and an interrupted import would make numba unusable
    executor = ThreadPoolExecutor(1)
    try:
        return executor.submit(_load).result()
    except ModuleNotFoundError:
        return None
    except (ImportError, RuntimeError) as error:  # incompatible with numpy, or no folder for compiled code
        warnings.warn(f"numba is installed but cannot be used, so prioritized replay is slower: {error}")
        return None
    finally:
        executor.shutdown(wait=False)


class SumTree:
    """
    Non-negative masses with their sums, for drawing in proportion to mass (Schaul et al. 2016, appendix B.2.1).

    Instead of about twenty binary levels, the tree has three wide ones, which vectorises better and causes fewer cache misses:
    masses, sums of 32 masses, and sums of 32 of these, which are searched by their running sum. Each change recomputes sums
    rather than adjusting them, so errors do not accumulate, and a sum is zero exactly if all its masses are. Results with
    and without numba are equal to the bit.

    :param capacity: number of masses, at least 1
    """

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        blocks = -(-capacity // WIDTH)
        groups = -(-blocks // WIDTH)
        self.masses = np.zeros((groups * WIDTH, WIDTH), dtype=np.float64)
        self.blocks = np.zeros((groups, WIDTH), dtype=np.float64)
        self.groups = np.zeros(groups, dtype=np.float64)

    @staticmethod
    def prepare() -> None:
        """Compile the inner loops now, if numba is installed, rather than at the first call of a method."""
        compiled()

    def __getitem__(self, indices: np.ndarray) -> np.ndarray:
        """:return: the masses at these indices, shape [B]"""
        return self.masses.reshape(-1)[indices]

    def update(self, indices: np.ndarray, masses: np.ndarray, only_drawable: bool = False) -> None:
        """
        Set masses; of a repeated index, the last mass counts.

        :param indices: shape [B]
        :param masses: non-negative and finite, shape [B]
        :param only_drawable: leave masses that are zero
        """
        if masses.shape != indices.shape:
            raise ValueError(f"masses of shape {masses.shape} should have shape {indices.shape}.")
        loops = compiled() or sum_tree_numpy
        loops.update(self.masses, self.blocks, self.groups, indices, masses, only_drawable)

    def draw(self, u: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """
        Draw in proportion to mass, one from each of B equal strata of the total.

        A mass of zero is never drawn, not even if rounding brings a value to the total or beyond it.

        :param u: position in each stratum, in [0, 1], shape [B]
        :return: indices and their masses, shape [B]; empty if all masses are zero
        """
        loops = compiled() or sum_tree_numpy
        return loops.draw(self.masses, self.blocks, self.groups, u)

    def check_valid(self) -> None:
        """:raises ValueError: if a mass is negative or not finite, or a sum is wrong"""
        masses = self.masses.reshape(-1)
        if not (np.isfinite(masses) & (masses >= 0)).all() or masses[self.capacity :].any():
            raise ValueError("The sum tree is broken: a mass is negative or not finite, or is beyond the capacity.")
        rebuilt = SumTree(self.capacity)
        rebuilt.update(np.arange(self.capacity), masses[: self.capacity])
        if not (np.array_equal(self.blocks, rebuilt.blocks) and np.array_equal(self.groups, rebuilt.groups)):
            raise ValueError("The sum tree is broken: a sum does not equal the sum of its masses.")

    def __getstate__(self) -> dict[str, Any]:
        sums = ("blocks", "groups")
        rest = {name: value for name, value in vars(self).items() if name not in sums}
        return {**rest, "masses": self.masses.reshape(-1)[: self.capacity]}

    def __setstate__(self, state: dict[str, Any]) -> None:
        masses = state.pop("masses")
        vars(self).update(state)
        SumTree.__init__(self, self.capacity)  # not a subclass's, which may take other arguments
        self.update(np.arange(self.capacity), masses)
