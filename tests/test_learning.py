"""Rainbow learns what it would not with a wrong target, weight or projection (see scripts/learning/results/regressions.md)."""

import pytest
from learning.regressions import CHECKS, MUTATIONS, learn_corridors, mutated

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("check", CHECKS)
def test_learning(check: str) -> None:
    assert CHECKS[check].learn(0) > CHECKS[check].bound


@pytest.mark.filterwarnings("ignore:.*target distributions' mass lies outside")  # as values without an end may
@pytest.mark.parametrize("name", MUTATIONS)
def test_the_bound_is_missed_where_something_is_broken(name: str) -> None:
    with mutated(name):
        assert learn_corridors(0) < CHECKS["Corridors"].bound
