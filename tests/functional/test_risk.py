"""Distortion risk measures against closed forms, and in both of the ways in which algorithms use them."""

import math
import pickle
from statistics import NormalDist

import pytest
import torch as th

from sb3_distrl.functional import CPW, CVaR, Distortion, Mean, Norm, Power, Wang, as_distortion, quantile_midpoints

MANY = 100_000
GAUSS = NormalDist(3.0, 2.0)
DISTORTIONS = [Mean(), CVaR(0.1), CVaR(0.25), CVaR(1.0), CPW(), CPW(0.3), Wang(-0.75), Wang(0.75), Power(-2.0), Power(2.0)]
DISTORTIONS += [Norm(1), Norm(2), Norm(3), Norm(16)]
IDENTITIES = [Mean(), CVaR(1.0), CPW(1.0), Wang(0.0), Power(0.0), Norm(1)]


def gaussian_quantiles(taus: th.Tensor) -> th.Tensor:
    return GAUSS.mean + GAUSS.stdev * th.special.ndtri(taus.double().clamp(1e-7, 1 - 1e-7))


def by_fractions(distortion: Distortion, quantile_function) -> float:
    """As IQN: the mean of quantiles at distorted fractions."""
    return float(quantile_function(distortion(quantile_midpoints(MANY).double())).mean())


def by_weights(distortion: Distortion, quantile_function) -> float:
    """As QR-DQN: fixed quantiles, weighted."""
    values = quantile_function(quantile_midpoints(MANY).double())
    return float(distortion.expectation(values, th.full((MANY,), 1 / MANY, dtype=th.float64)))


def by_draws(distortion: Distortion, quantile_function) -> float:
    th.manual_seed(0)
    return float(quantile_function(distortion.sample(1000, 1000)).mean())


WAYS = pytest.mark.parametrize("measure", [by_fractions, by_weights])


@WAYS
@pytest.mark.parametrize("level", [0.05, 0.25, 0.9, 1.0])
def test_cvar_of_a_gaussian(measure, level: float) -> None:
    expected = GAUSS.mean
    if level < 1:
        z = NormalDist().inv_cdf(level)
        expected -= GAUSS.stdev * NormalDist().pdf(z) / level
    assert measure(CVaR(level), gaussian_quantiles) == pytest.approx(expected, abs=1e-3)
    assert by_draws(CVaR(level), gaussian_quantiles) == pytest.approx(expected, abs=2e-2)


@WAYS
@pytest.mark.parametrize("eta", [-0.75, 0.0, 1.5])
def test_wang_shifts_a_gaussian(measure, eta: float) -> None:
    expected = GAUSS.mean + eta * GAUSS.stdev
    assert measure(Wang(eta), gaussian_quantiles) == pytest.approx(expected, abs=1e-3)
    assert by_draws(Wang(eta), gaussian_quantiles) == pytest.approx(expected, abs=2e-2)


@WAYS
@pytest.mark.parametrize("eta", [-2.0, -0.5, 0.0, 3.0])
def test_power_of_a_uniform(measure, eta: float) -> None:
    risky = (1 + abs(eta)) / (2 + abs(eta))  # the integral of tau^(1 / (1 + |eta|))
    expected = risky if eta >= 0 else 1 - risky
    assert measure(Power(eta), lambda u: u) == pytest.approx(expected, abs=1e-3)
    assert by_draws(Power(eta), lambda u: u) == pytest.approx(expected, abs=2e-3)


@WAYS
@pytest.mark.parametrize("n", [1, 2, 3, 16])
def test_norm_by_its_moments(measure, n: int) -> None:
    """The mean of n uniform numbers has mean 1/2 and variance 1/12n."""
    assert measure(Norm(n), lambda u: u) == pytest.approx(0.5, abs=1e-3)
    assert measure(Norm(n), lambda u: u**2) == pytest.approx(0.25 + 1 / (12 * n), abs=1e-3)
    assert by_draws(Norm(n), lambda u: u**2) == pytest.approx(0.25 + 1 / (12 * n), abs=2e-3)


def cpw(tau: float, eta: float) -> float:
    return tau**eta / (tau**eta + (1 - tau) ** eta) ** (1 / eta)


@WAYS
@pytest.mark.parametrize("eta", [0.71, 0.4])
def test_cpw_of_an_exponential(measure, eta: float) -> None:
    """Against a sum in plain floats, at the paper's parameter and another."""
    n = 20_000
    expected = sum(-math.log1p(-cpw((i + 0.5) / n, eta)) for i in range(n)) / n
    assert measure(CPW(eta), lambda u: -th.log1p(-u)) == pytest.approx(expected, abs=1e-3)
    assert by_draws(CPW(eta), lambda u: -th.log1p(-u)) == pytest.approx(expected, abs=5e-3)


def test_cpw_at_the_papers_parameter() -> None:
    """At a half 2^-(0.71 + 0.29 / 0.71), at a tenth 10^0.29 (1 + 9^0.71)^(-1 / 0.71)."""
    assert CPW()(th.tensor([0.5, 0.1])).tolist() == pytest.approx([0.46059, 0.16561], abs=1e-5)


def test_fractions_of_each_family() -> None:
    """Hand-computed, so that no two ways can be wrong together."""
    taus = th.tensor([0.2, 0.5])
    assert CVaR(0.25)(taus).tolist() == pytest.approx([0.05, 0.125])
    assert Wang(-0.75)(taus)[1].item() == pytest.approx(NormalDist().cdf(-0.75), abs=1e-6)
    assert Power(-2.0)(taus).tolist() == pytest.approx([1 - 0.8 ** (1 / 3), 1 - 0.5 ** (1 / 3)])
    assert Power(2.0)(taus).tolist() == pytest.approx([0.2 ** (1 / 3), 0.5 ** (1 / 3)])
    assert Norm(2)(th.tensor([0.125, 0.5, 0.875])).tolist() == pytest.approx([0.25, 0.5, 0.75])  # a triangle
    assert Norm(2).inverse(th.tensor([0.25, 0.5, 0.75])).tolist() == pytest.approx([0.125, 0.5, 0.875])


@pytest.mark.parametrize("distortion", DISTORTIONS, ids=str)
def test_inverse(distortion: Distortion) -> None:
    taus = th.linspace(0, 1, 1001, dtype=th.float64)
    distorted = distortion(taus)
    assert (distorted.diff() >= -1e-9).all() and distorted[0] == 0
    assert th.allclose(distortion.inverse(distorted), taus, atol=2e-5)
    assert distortion.inverse(th.tensor([0.0, 1.0])).tolist() == [0.0, 1.0]


@pytest.mark.parametrize("distortion", DISTORTIONS, ids=str)
def test_draws_are_distorted_uniform_ones(distortion: Distortion) -> None:
    """Kolmogorov-Smirnov distance to the distribution function beta^-1."""
    th.manual_seed(1)
    draws = distortion.sample(200, 500).flatten().sort().values.double()
    ranks = th.arange(1, len(draws) + 1) / len(draws)
    assert (distortion.inverse(draws) - ranks).abs().max() < 1.95 / math.sqrt(len(draws))  # p = 0.001


def test_cvar_of_unequal_atoms() -> None:
    values, probs = th.tensor([-4.0, 1.0, 2.0]), th.tensor([[0.1, 0.2, 0.7], [0.25, 0.75, 0.0]])
    assert CVaR(0.25).weights(probs)[0].tolist() == pytest.approx([0.4, 0.6, 0.0], abs=1e-6)
    assert CVaR(0.25).expectation(values, probs).tolist() == pytest.approx([-1.0, -4.0], abs=1e-6)
    assert CVaR(0.5).expectation(values, probs).tolist() == pytest.approx([(-0.4 + 0.2 + 0.4) / 0.5, -1.5], abs=1e-6)


def test_power_of_unequal_atoms() -> None:
    """beta^-1(u) = u^3 for eta = 2, which seeks risk: the best atom counts more than its probability."""
    probs = th.tensor([0.5, 0.3, 0.2])
    assert Power(2.0).weights(probs).tolist() == pytest.approx([0.125, 0.512 - 0.125, 1 - 0.512], abs=1e-6)
    assert Power(-2.0).weights(probs).tolist() == pytest.approx([1 - 0.125, 0.125 - 0.008, 0.008], abs=1e-6)


@pytest.mark.parametrize("distortion", DISTORTIONS, ids=str)
def test_weights_are_a_distribution_also_of_softmax_probabilities(distortion: Distortion) -> None:
    probs = th.randn(5, 3, 51).softmax(dim=-1)
    weights = distortion.weights(probs)
    assert (weights >= 0).all() and th.allclose(weights.sum(dim=-1), th.ones(5, 3), atol=1e-5)


@pytest.mark.parametrize("distortion", IDENTITIES, ids=str)
def test_identities(distortion: Distortion) -> None:
    assert distortion.is_identity
    probs, taus = th.rand(4, 7).softmax(dim=-1), th.rand(5)
    assert distortion.weights(probs) is probs
    assert th.allclose(distortion(taus), taus, atol=1e-6)


def test_others_are_no_identity() -> None:
    assert not any(each.is_identity for each in DISTORTIONS if each not in IDENTITIES)


@pytest.mark.parametrize("distortion", DISTORTIONS, ids=str)
def test_names(distortion: Distortion) -> None:
    assert as_distortion(str(distortion)) == distortion == as_distortion(distortion)
    assert pickle.loads(pickle.dumps(distortion)) == distortion


def test_defaults_are_the_papers() -> None:
    assert as_distortion("cpw") == CPW(0.71) and as_distortion("norm") == Norm(3) and as_distortion(" CVaR:0.1 ") == CVaR(0.1)


@pytest.mark.parametrize(
    ("risk", "says"),
    [
        ("cvar", "'cvar' has no level.*cvar:0.25"),
        ("wang", "no level"),
        ("cvar:0", r"eta=0.0 must be in \(0, 1\]"),
        ("cvar:1.5", r"eta=1.5 must be in \(0, 1\]"),
        ("cvar:nan", r"eta=nan"),
        ("cpw:0.2", r"eta=0.2 must be in \[0.3, 1\]"),
        ("norm:2.5", "eta=2.5 must be a whole number"),
        ("norm:inf", "eta=inf must be a whole number"),
        ("norm:17", "eta=17.0 must be"),
        ("wang:inf", "eta=inf must be finite"),
        ("power:nan", "eta=nan must be finite"),
        ("wang:much", "level must be a number"),
        ("var:0.25", "'var:0.25' is unknown: use one of mean, cvar:0.25"),
        ("mean:0.5", "unknown"),
        (0.25, "risk=0.25 is not a risk measure"),
        (None, "risk=None is not a risk measure"),
    ],
)
def test_mistakes(risk: object, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        as_distortion(risk)  # type: ignore[arg-type]
