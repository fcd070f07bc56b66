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
    """
    Import numba and compile the inner loops, which takes a second the first time.

    This is done in a thread of its own: Ctrl-C reaches the main thread only, and an interrupted import would leave numba
    unusable until the process ends.

    :return: the compiled inner loops, or ``None`` where numba is not installed or cannot be used
    """
    executor = ThreadPoolExecutor(1)
    try:
        return executor.submit(_load).result()
    except ModuleNotFoundError:
        return None
    except (ImportError, RuntimeError) as error:  # it does not fit numpy, or has no folder for compiled code
        warnings.warn(f"numba is installed but cannot be used, so that prioritized replay is slower: {error}")
        return None
    finally:
        executor.shutdown(wait=False)


class SumTree:
    """
    Non-negative masses with their sums, for drawing in proportion to mass (Schaul et al. 2016, appendix B.2.1).

    The tree is not binary with twenty levels but has three wide ones, which vectorises better and causes fewer cache
    misses: masses, sums of 32 masses, and sums of 32 of these, which are searched by their running sum. Sums are added up
    anew on each change, never adjusted by differences, so no error builds up, and a sum is zero exactly when all its
    masses are. With numba or without, results are the same to the last bit.

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
        """Compile what is compiled, where numba is installed, rather than at the first call of a method."""
        compiled()

    def __getitem__(self, indices: np.ndarray) -> np.ndarray:
        """:return: the masses at these indices, shape [B]"""
        return self.masses.reshape(-1)[indices]

    def update(self, indices: np.ndarray, masses: np.ndarray, only_drawable: bool = False) -> None:
        """
        Set masses; where an index stands more than once, its last mass counts.

        :param indices: shape [B]
        :param masses: non-negative and finite, shape [B]
        :param only_drawable: a mass that is zero stays zero
        """
        if masses.shape != indices.shape:
            raise ValueError(f"masses of shape {masses.shape} should have shape {indices.shape}.")
        loops = compiled() or sum_tree_numpy
        loops.update(self.masses, self.blocks, self.groups, indices, masses, only_drawable)

    def draw(self, u: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """
        Draw in proportion to mass, one from each of B equal strata of the total.

        A mass of zero is never drawn, not even where rounding brings a value up to the total or past it.

        :param u: where in each stratum, from [0, 1], shape [B]
        :return: indices and their masses, shape [B]; or [0], if there is no mass at all
        """
        loops = compiled() or sum_tree_numpy
        return loops.draw(self.masses, self.blocks, self.groups, u)

    def check_valid(self) -> None:
        """:raises ValueError: if a mass is negative or not finite, or a sum is not that of its masses"""
        masses = self.masses.reshape(-1)
        if not (np.isfinite(masses) & (masses >= 0)).all() or masses[self.capacity :].any():
            raise ValueError("The sum tree is broken: a mass is negative or not finite, or stands where none belongs.")
        rebuilt = SumTree(self.capacity)
        rebuilt.update(np.arange(self.capacity), masses[: self.capacity])
        if not (np.array_equal(self.blocks, rebuilt.blocks) and np.array_equal(self.groups, rebuilt.groups)):
            raise ValueError("The sum tree is broken: a sum is not that of its masses.")

    def __getstate__(self) -> dict[str, Any]:
        sums = ("blocks", "groups")
        rest = {name: value for name, value in vars(self).items() if name not in sums}
        return {**rest, "masses": self.masses.reshape(-1)[: self.capacity]}

    def __setstate__(self, state: dict[str, Any]) -> None:
        masses = state.pop("masses")
        vars(self).update(state)
        SumTree.__init__(self, self.capacity)  # not a subclass's, which may take other arguments
        self.update(np.arange(self.capacity), masses)
