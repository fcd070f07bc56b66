"""Distributions of returns, as numpy arrays."""

from dataclasses import dataclass

import numpy as np
import torch as th
from numpy.typing import ArrayLike

from sb3_distrl.functional import CVaR, Distortion, as_distortion
from sb3_distrl.validation import check_fraction

TOLERANCE = 1e-4  # for sums of float32 probabilities


@dataclass(frozen=True, eq=False)
class ValueDistribution:
    """
    Discrete distributions of the return, one for each action, in units of discounted (and, if so, clipped or normalised)
    return. All methods work on all distributions at once. Objects are compared by identity.

    :param values: atoms, sorted on creation, shape [..., A, Z]
    :param probabilities: of the atoms, same shape
    :raises ValueError: if the shapes differ, or probabilities are negative or do not sum to 1
    """

    values: np.ndarray
    probabilities: np.ndarray

    def __post_init__(self) -> None:
        values, probabilities = np.asarray(self.values), np.asarray(self.probabilities)
        if values.shape != probabilities.shape or values.ndim < 2:
            raise ValueError(
                f"values of shape {values.shape} and probabilities of shape {probabilities.shape} must both have the shape "
                "[..., actions, atoms]."
            )
        if (probabilities < 0).any() or not np.allclose(probabilities.sum(axis=-1), 1, rtol=0, atol=TOLERANCE):
            raise ValueError(f"probabilities={probabilities} must be non-negative, and sum to 1 over the last axis.")
        order = values.argsort(axis=-1, kind="stable")
        object.__setattr__(self, "values", np.take_along_axis(values, order, axis=-1))
        object.__setattr__(self, "probabilities", np.take_along_axis(probabilities, order, axis=-1))

    def mean(self) -> np.ndarray:
        """:return: expected returns, shape [..., A]"""
        return (self.values * self.probabilities).sum(axis=-1)

    def std(self) -> np.ndarray:
        """:return: standard deviations, in units of return, shape [..., A]"""
        deviations = self.values - self.mean()[..., None]
        return np.sqrt((deviations**2 * self.probabilities).sum(axis=-1))

    def quantile(self, q: ArrayLike) -> np.ndarray:
        """
        The lowest atom that the return does not exceed with probability at least q.

        :param q: in [0, 1], a number or an array of shape [...]
        :return: for a number, shape [..., A]; otherwise with the axes of ``q`` at the end
        :raises ValueError: for a q out of range
        """
        fractions = np.asarray(q, dtype=np.float64)
        if not ((fractions >= 0) & (fractions <= 1)).all():
            raise ValueError(f"q={fractions} must be in [0, 1]: use e.g. 0.5 for the median.")
        cumulative = self._cumulative()[..., None, :-1]  # the last atom takes the rest
        index = (cumulative < fractions.reshape(-1, 1) - 1e-9).sum(axis=-1)  # [..., A, Q]
        quantiles = np.take_along_axis(self.values, index, axis=-1)
        return quantiles.reshape(*self.values.shape[:-1], *fractions.shape)

    def cvar(self, level: float) -> np.ndarray:
        """
        Conditional value at risk: the mean of the worst returns.

        :param level: their share, in (0, 1]; 1 gives the mean
        :return: shape [..., A]
        :raises ValueError: for a level out of range
        """
        check_fraction("level", level, "it is the share of worst returns to average, such as 0.25")
        return self.risk(CVaR(level))

    def probability_below(self, value: ArrayLike) -> np.ndarray:
        """
        :param value: a number, or an array of shape [...], in units of return
        :return: probabilities of a lower return; for a number, shape [..., A], otherwise with the axes of ``value`` at the end
        """
        bounds = np.asarray(value, dtype=np.float64)
        below = self.values[..., None, :] < bounds.reshape(-1, 1)  # [..., A, V, Z]
        masses = (below * self.probabilities[..., None, :]).sum(axis=-1)
        return masses.clip(max=1).reshape(*self.values.shape[:-1], *bounds.shape)

    def risk(self, distortion: str | Distortion) -> np.ndarray:
        """
        :param distortion: a risk measure, or its name, such as "cvar:0.25" or "wang:-0.75"
        :return: the measure of each distribution, in units of return, shape [..., A]
        :raises ValueError: for an unknown one
        """
        measure = as_distortion(distortion, "distortion")
        return measure.expectation(th.tensor(self.values), th.tensor(self.probabilities)).numpy()

    def _cumulative(self) -> np.ndarray:
        return self.probabilities.astype(np.float64).cumsum(axis=-1)
