"""
Distortion risk measures (Dabney et al. 2018b, IQN, sections 3 and 4).

A distortion beta: [0, 1] -> [0, 1] turns a distribution with quantile function F^-1 into the value

    rho = integral of F^-1(beta(tau)) dtau = integral of F^-1(u) d(beta^-1)(u),

the mean of the quantiles at distorted fractions (IQN, the text above equation 2). Implicit quantile networks compute the
quantiles at beta(tau); fixed quantiles or atoms are weighted, see :meth:`Distortion.weights`. The paper also writes rho as
the integral of F^-1(u) dbeta(u), which is not the same. Its authors used the first form, which also fits the signs of its
levels and its description of the measures.
"""

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar

import torch as th

from sb3_distrl.functional.special import inverse, normal_cdf, normal_quantile
from sb3_distrl.validation import check_fraction

LOWEST_CPW = 0.3  # below 0.28 the curve is not increasing, and just above it is too flat to invert
MOST_NORM = 16  # beyond, the alternating sum loses digits in float32


class Distortion(ABC):
    """An increasing function beta from [0, 1] onto [0, 1]. Values of distributions are in units of return."""

    @property
    @abstractmethod
    def is_identity(self) -> bool:
        """Whether beta(tau) = tau, so that the measure is the mean."""

    @abstractmethod
    def __call__(self, taus: th.Tensor) -> th.Tensor:
        """:return: beta(tau) for fractions in [0, 1] of any shape"""

    @abstractmethod
    def inverse(self, fractions: th.Tensor) -> th.Tensor:
        """:return: the largest tau with beta(tau) = fraction, or 1 if there is none; fractions in [0, 1] of any shape"""

    def sample(self, *shape: int, device: th.device | str | None = None) -> th.Tensor:
        """
        Draw distorted fractions beta(tau), tau ~ U(0, 1).

        :param shape: shape of the result
        :param device: device of the result
        :return: fractions of this shape
        """
        return self(th.rand(*shape, device=device))

    def weights(self, probs: th.Tensor) -> th.Tensor:
        """
        The weight of each atom of a distribution: the increase of beta^-1 over the atom's cumulative probability.

        :param probs: probabilities of atoms in ascending order, shape [..., Z]
        :return: weights that sum to 1, shape [..., Z]
        """
        if self.is_identity:
            return probs
        cumulative = probs.cumsum(dim=-1)
        reached = self.inverse((cumulative / cumulative[..., -1:]).clamp(max=1.0))
        before = th.cat([th.zeros_like(reached[..., :1]), reached[..., :-1]], dim=-1)
        return reached - before  # torch does not export diff(prepend=...) to ONNX

    def expectation(self, values: th.Tensor, probs: th.Tensor) -> th.Tensor:
        """
        The risk measure rho of discrete distributions.

        :param values: atoms in ascending order, shape [..., Z]
        :param probs: probabilities of the atoms, shape [..., Z] or [Z]
        :return: risk measures in units of return, shape [...]
        """
        return (values * self.weights(probs)).sum(dim=-1)


@dataclass(frozen=True)
class Mean(Distortion):
    """The identity, which is risk-neutral."""

    is_identity: ClassVar[bool] = True  # type: ignore[assignment,misc]

    def __call__(self, taus: th.Tensor) -> th.Tensor:
        return taus

    def inverse(self, fractions: th.Tensor) -> th.Tensor:
        return fractions

    def __str__(self) -> str:
        return "mean"


@dataclass(frozen=True)
class _WithLevel(Distortion):
    """A family of distortions with a level eta."""

    eta: float
    neutral: ClassVar[float]  # level of the identity

    @property
    def is_identity(self) -> bool:
        return self.eta == self.neutral

    def __str__(self) -> str:
        return f"{type(self).__name__.lower()}:{self.eta:g}"


@dataclass(frozen=True)
class CVaR(_WithLevel):
    """
    Conditional value at risk, the mean of the worst share of returns: beta(tau) = eta tau (Chow & Ghavamzadeh 2014).

    :param eta: that share, in (0, 1]; 1 is the mean
    :raises ValueError: if eta is out of range
    """

    neutral: ClassVar[float] = 1.0

    def __post_init__(self) -> None:
        check_fraction("eta", self.eta, "CVaR takes the share of worst returns to average, such as 0.25")

    def __call__(self, taus: th.Tensor) -> th.Tensor:
        return self.eta * taus

    def inverse(self, fractions: th.Tensor) -> th.Tensor:
        return (fractions / self.eta).clamp(max=1.0)


@dataclass(frozen=True)
class CPW(_WithLevel):
    """
    Cumulative probability weighting, tau^eta / (tau^eta + (1 - tau)^eta)^(1 / eta) (Tversky & Kahneman 1992).

    As beta, the curve moves fractions towards the middle, so that the tails of the distribution count less; Tversky and
    Kahneman apply it to probabilities, where it makes the tails count more. Its inverse is computed numerically.

    :param eta: in [0.3, 1]; 0.71 in the paper, 1 is the mean
    :raises ValueError: if eta is out of range; below 0.28 the curve is not increasing
    """

    eta: float = 0.71
    neutral: ClassVar[float] = 1.0

    def __post_init__(self) -> None:
        if not LOWEST_CPW <= self.eta <= 1:
            raise ValueError(f"eta={self.eta} must be in [{LOWEST_CPW}, 1]: CPW takes e.g. 0.71, as in the paper.")

    def __call__(self, taus: th.Tensor) -> th.Tensor:
        powers = taus**self.eta
        return powers / (powers + (1 - taus) ** self.eta) ** (1 / self.eta)

    def inverse(self, fractions: th.Tensor) -> th.Tensor:
        return inverse(self, fractions)


class _WithAnyLevel(_WithLevel):
    neutral: ClassVar[float] = 0.0

    def __post_init__(self) -> None:
        if not abs(self.eta) < float("inf"):
            name = type(self).__name__
            raise ValueError(f"eta={self.eta} must be finite: {name} takes e.g. -0.75, or 0.75 to seek risk.")


@dataclass(frozen=True)
class Wang(_WithAnyLevel):
    """
    Wang's transform Phi(Phi^-1(tau) + eta), with the standard normal distribution function Phi (Wang 2000).

    It shifts the mean of a Gaussian by eta standard deviations.

    :param eta: finite; negative is risk-averse, positive risk-seeking, 0 the mean; -0.75 in the paper
    :raises ValueError: if eta is not finite
    """

    def __call__(self, taus: th.Tensor) -> th.Tensor:
        return normal_cdf(normal_quantile(taus) + self.eta)

    def inverse(self, fractions: th.Tensor) -> th.Tensor:
        return normal_cdf(normal_quantile(fractions) - self.eta)


@dataclass(frozen=True)
class Power(_WithAnyLevel):
    """
    The power formula: ``tau^(1 / (1 + |eta|))`` for eta >= 0, otherwise ``1 - (1 - tau)^(1 / (1 + |eta|))``.

    :param eta: finite; negative is risk-averse, positive risk-seeking, 0 the mean; -2 in the paper
    :raises ValueError: if eta is not finite
    """

    def _power(self, x: th.Tensor, exponent: float) -> th.Tensor:
        return x**exponent if self.eta >= 0 else 1 - (1 - x) ** exponent

    def __call__(self, taus: th.Tensor) -> th.Tensor:
        return self._power(taus, 1 / (1 + abs(self.eta)))

    def inverse(self, fractions: th.Tensor) -> th.Tensor:
        return self._power(fractions, 1 + abs(self.eta))


@dataclass(frozen=True)
class Norm(_WithLevel):
    """
    Draws fractions as means of eta uniform ones, so that the tails of the distribution count less.

    The paper defines only this draw, no beta. These means have Bates' distribution; here beta is its quantile function, which
    gives the same draws, and beta^-1 is its distribution function.

    :param eta: number of uniform fractions, from 1 (the mean) to 16; 3 in the paper
    :raises ValueError: if eta is out of range
    """

    eta: int = 3
    neutral: ClassVar[float] = 1

    def __post_init__(self) -> None:
        if not 1 <= self.eta <= MOST_NORM or self.eta != int(self.eta):
            raise ValueError(f"eta={self.eta} must be a whole number in [1, {MOST_NORM}]: Norm takes 3 in the paper.")

    def __call__(self, taus: th.Tensor) -> th.Tensor:
        if self.is_identity:
            return taus
        mirrored = taus > 0.5
        lower = inverse(self.inverse, th.where(mirrored, 1 - taus, taus))
        return th.where(mirrored, 1 - lower, lower)

    def inverse(self, fractions: th.Tensor) -> th.Tensor:
        n = int(self.eta)
        mirrored = fractions > 0.5  # the sum is more precise for the lower half
        x = n * th.where(mirrored, 1 - fractions, fractions)
        terms = [(-1) ** k * math.comb(n, k) / math.factorial(n) * (x - k).clamp(min=0.0) ** n for k in range(n // 2 + 1)]
        cdf = th.stack(terms).sum(dim=0)
        return th.where(mirrored, 1 - cdf, cdf)

    def sample(self, *shape: int, device: th.device | str | None = None) -> th.Tensor:
        return th.rand(int(self.eta), *shape, device=device).mean(dim=0)


MEAN = Mean()
FAMILIES: dict[str, type[_WithLevel]] = {family.__name__.lower(): family for family in (CVaR, CPW, Wang, Power, Norm)}
HAVE_DEFAULTS = ("cpw", "norm")


def as_distortion(risk: str | Distortion, name: str = "risk") -> Distortion:
    """
    Convert the name of a risk measure to a distortion.

    :param risk: a distortion, or its name and level: "mean", "cvar:0.25", "cpw" or "cpw:0.71", "wang:-0.75", "power:-2",
        "norm" or "norm:3"
    :param name: name of the argument in errors
    :return: the distortion
    :raises ValueError: for anything else
    """
    if isinstance(risk, Distortion):
        return risk
    known = "one of mean, cvar:0.25, cpw:0.71, wang:-0.75, power:-2, norm:3, with a level of your choice, or a Distortion"
    if not isinstance(risk, str):
        raise ValueError(f"{name}={risk!r} is not a risk measure: use {known}.")
    family, colon, level = risk.strip().lower().partition(":")
    if family == "mean" and not colon:
        return MEAN
    if family not in FAMILIES:
        raise ValueError(f"{name}={risk!r} is unknown: use {known}.")
    if not colon:
        if family not in HAVE_DEFAULTS:
            raise ValueError(f"{name}={risk!r} has no level: write it after a colon, as in cvar:0.25, wang:-0.75 or power:-2.")
        return FAMILIES[family]()  # type: ignore[call-arg]
    try:
        return FAMILIES[family](float(level))
    except ValueError as error:
        reason = str(error) if str(error).startswith("eta") else f"its level must be a number: use {known}."
        raise ValueError(f"{name}={risk!r}: {reason}") from error
