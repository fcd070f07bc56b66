"""Distributions of returns, by hand and against loops."""

import numpy as np
import pytest

from sb3_distrl.common.distribution import ValueDistribution
from sb3_distrl.functional import CVaR, Wang

# One state with three actions: hand-made, a coin, and certain
VALUES = np.array([[2.0, -4.0, 1.0], [0.0, 10.0, 20.0], [3.0, 3.0, 3.0]])
PROBS = np.array([[0.7, 0.1, 0.2], [0.5, 0.0, 0.5], [0.2, 0.3, 0.5]])
ONE = ValueDistribution(VALUES, PROBS)


def random_distributions(*shape: int) -> ValueDistribution:
    rng = np.random.default_rng(0)
    probabilities = rng.dirichlet(np.ones(shape[-1]), shape[:-1])
    return ValueDistribution(rng.normal(size=shape), probabilities)


def test_atoms_are_in_ascending_order() -> None:
    assert ONE.values[0].tolist() == [-4, 1, 2] and ONE.probabilities[0].tolist() == [0.1, 0.2, 0.7]


def test_by_hand() -> None:
    assert ONE.mean() == pytest.approx([1.2, 10, 3])
    assert ONE.std() == pytest.approx([np.sqrt(0.1 * 5.2**2 + 0.2 * 0.2**2 + 0.7 * 0.8**2), 10, 0])
    assert ONE.quantile(0.5).tolist() == [2, 0, 3]
    assert ONE.quantile([0, 0.1, 0.11, 0.3, 1]).tolist() == [[-4, -4, 1, 1, 2], [0, 0, 0, 0, 20], [3] * 5]
    assert ONE.cvar(0.25) == pytest.approx([-1, 0, 3])
    assert ONE.cvar(0.75) == pytest.approx([(-0.4 + 0.2 + 0.45 * 2) / 0.75, 20 * 0.25 / 0.75, 3])
    assert ONE.cvar(1) == pytest.approx(ONE.mean())
    assert ONE.probability_below(2) == pytest.approx([0.3, 0.5, 0])
    assert ONE.probability_below([-4, 0.5, 99]) == pytest.approx(np.array([[0, 0.1, 1], [0, 0.5, 1], [0, 0, 1]]))


def test_objects_are_compared_and_hashed_as_such() -> None:
    """Arrays have no truth value and no hash."""
    same = ValueDistribution(VALUES, PROBS)
    assert ONE == ONE and ONE != same and (ONE == 3) is False
    assert [same, ONE].index(ONE) == 1 and len({ONE, same, ONE}) == 2


def test_methods_work_on_all_distributions_at_once() -> None:
    many = random_distributions(4, 3, 6)
    methods = {
        "mean": (),
        "std": (),
        "quantile": (np.array([[0.1, 0.5], [0.9, 0.3]]),),
        "cvar": (0.3,),
        "probability_below": (np.array([-0.5, 0.0, 0.7]),),
        "risk": ("wang:-0.75",),
    }
    for name, arguments in methods.items():
        together = getattr(many, name)(*arguments)
        for b in range(4):
            alone = getattr(ValueDistribution(many.values[b], many.probabilities[b]), name)(*arguments)
            assert np.allclose(together[b], alone), name
        assert together.shape == (4, 3, *np.shape(arguments[0] if name in ("quantile", "probability_below") else 0))


def test_against_loops() -> None:
    many = random_distributions(2, 3, 6)
    for index in np.ndindex(2, 3):
        pairs = sorted(zip(many.values[index], many.probabilities[index], strict=True))
        left, worst = 0.4, 0.0
        for value, probability in pairs:
            taken = min(left, probability)
            worst += taken * value / 0.4
            left -= taken
        assert many.cvar(0.4)[index] == pytest.approx(worst)
        total = 0.0
        for value, probability in pairs:
            total += probability
            if total >= 0.6:
                assert many.quantile(0.6)[index] == value
                break


def test_quantiles_do_not_depend_on_rounding() -> None:
    ten = ValueDistribution(np.arange(10.0)[None], np.full((1, 10), 0.1, dtype=np.float32))
    assert ten.quantile(np.arange(1, 11) / 10).tolist() == [list(range(10))]
    thirty = ValueDistribution(np.arange(30.0)[None], np.full((1, 30), 1 / 30, dtype=np.float32))
    assert thirty.quantile(np.arange(1, 31) / 30).tolist() == [list(range(30))]


def test_risk_takes_distortions_and_their_names() -> None:
    assert np.array_equal(ONE.risk("cvar:0.25"), ONE.risk(CVaR(0.25)))
    assert np.allclose(ONE.risk("mean"), ONE.mean())
    assert (ONE.risk(Wang(-1.0))[:2] < ONE.mean()[:2]).all()


@pytest.mark.parametrize(
    ("values", "probabilities", "says"),
    [
        (VALUES, PROBS[:2], r"shape \(3, 3\).*\(2, 3\)"),
        (VALUES[0], PROBS[0], "actions, atoms"),
        (VALUES, 2 * PROBS, "sum to 1"),
        (VALUES, np.array([[1.5, -0.5, 0]] * 3), "non-negative"),
        (VALUES, np.full((3, 3), np.nan), "sum to 1"),
    ],
)
def test_what_is_no_distribution(values: np.ndarray, probabilities: np.ndarray, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        ValueDistribution(values, probabilities)


@pytest.mark.parametrize(
    ("method", "argument", "says"),
    [
        ("quantile", 1.5, r"q=1.5 must be in \[0, 1\]"),
        ("quantile", np.nan, "q=nan"),
        ("cvar", 0.0, r"level=0.0 must be in \(0, 1\]"),
        ("risk", "cvar", "distortion='cvar' has no level"),
    ],
)
def test_mistakes(method: str, argument: object, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        getattr(ONE, method)(argument)
