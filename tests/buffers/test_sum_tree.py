import math

import numpy as np
import pytest

from sb3_distrl.buffers import SumTree

CAPACITIES = [1, 2, 3, 5, 8, 100]


def find_by_loop(masses, value):
    """The leaf at which the running sum first exceeds the value; the last one with mass, if none does."""
    total = 0.0
    for leaf, mass in enumerate(masses):
        total += mass
        if total > value:
            return leaf
    return max(leaf for leaf, mass in enumerate(masses) if mass > 0)


def filled(masses):
    tree = SumTree(len(masses))
    tree.update(np.arange(len(masses)), np.asarray(masses, dtype=np.float64))
    return tree


@pytest.mark.parametrize("capacity", CAPACITIES)
def test_updates_and_finds_against_a_loop(capacity):
    rng = np.random.default_rng(capacity)
    tree, masses = SumTree(capacity), [0.0] * capacity
    assert tree.total == 0
    for _ in range(60):
        indices = rng.integers(capacity, size=rng.integers(1, 2 * capacity + 1))  # with duplicates
        new = rng.integers(0, 4, size=len(indices)).astype(np.float64)  # many zeros; sums of integers are exact
        tree.update(indices, new)
        for index, mass in zip(indices, new, strict=True):
            masses[index] = mass
        assert tree.total == sum(masses)
        assert tree[np.arange(capacity)].tolist() == masses
        if tree.total > 0:
            values = np.concatenate([np.arange(tree.total + 1), rng.random(20) * tree.total])
            assert tree.find(values).tolist() == [find_by_loop(masses, value) for value in values]


def test_by_hand():
    tree = filled([1.0, 0.0, 2.5, 0.5, 4.0])
    assert tree.total == 8.0
    values = np.array([0.0, 0.999, 1.0, 3.499, 3.5, 3.999, 4.0, 7.999])
    assert tree.find(values).tolist() == [0, 0, 2, 2, 3, 3, 4, 4]


def test_last_of_duplicates_counts():
    tree = filled([1.0, 1.0, 1.0])
    tree.update(np.array([2, 0, 2, 0, 2]), np.array([5.0, 6.0, 7.0, 8.0, 9.0]))
    assert tree[np.arange(3)].tolist() == [8.0, 1.0, 9.0]
    assert tree.total == 18.0


def test_one_mass_for_many():
    tree = SumTree(5)
    tree.update(np.array([4, 1]), 2.5)
    assert tree[np.arange(5)].tolist() == [0, 2.5, 0, 0, 2.5]


def test_sums_are_float64():
    tree = filled([1.0, 1e-12, 0.0])
    assert tree.nodes.dtype == np.float64
    assert tree.total == 1.0 + 1e-12 > 1.0


def test_no_error_builds_up():
    """Sums that are adjusted by differences drift, and are not zero again when all masses are."""
    rng = np.random.default_rng(0)
    tree = SumTree(37)
    for _ in range(2000):
        tree.update(rng.integers(37, size=5), 10.0 ** rng.uniform(-12, 12, size=5))
    assert tree.total == pytest.approx(math.fsum(tree[np.arange(37)]), rel=1e-14)
    tree.update(np.arange(37), 0.0)
    assert tree.total == 0.0
    tree.update(np.array([20]), 1e-12)
    assert tree.total == 1e-12 and tree.find(np.array([0.0])).tolist() == [20]


@pytest.mark.parametrize("capacity", CAPACITIES)
@pytest.mark.parametrize("scale", ["even", "extreme"])
def test_never_finds_a_leaf_without_mass(capacity, scale):
    """Not even where rounding has brought a value up to the total, or past it."""
    rng = np.random.default_rng(capacity)
    for _ in range(50):
        masses = 10.0 ** rng.uniform(-12, 12, size=capacity) if scale == "extreme" else 0.1 * rng.random(capacity)
        masses[rng.random(capacity) < 0.5] = 0.0
        masses[rng.integers(capacity)] = 0.3
        tree = filled(masses)
        sums = np.cumsum(masses)
        edges = np.concatenate([sums, np.nextafter(sums, 0), np.nextafter(sums, np.inf), [0.0]])
        ends = tree.total * np.array([1.0, 1 - 1e-16, 1 + 1e-15, 1 + 1e-9])
        values = np.concatenate([edges, ends, [np.nextafter(tree.total, np.inf)], rng.random(200) * tree.total])
        found = tree.find(values)
        assert found.min() >= 0 and found.max() < capacity
        assert (tree[found] > 0).all()


@pytest.mark.parametrize("capacity", CAPACITIES)
def test_the_total_finds_the_only_leaf_with_mass(capacity):
    for leaf in range(capacity):
        masses = np.zeros(capacity)
        masses[leaf] = 0.1
        tree = filled(masses)
        values = np.array([0.0, 0.05, tree.total, np.nextafter(tree.total, 1), 1.0])
        assert (tree.find(values) == leaf).all()


def test_an_empty_tree_has_nothing_to_find():
    with pytest.raises(AssertionError):
        SumTree(3).find(np.array([0.0]))


def test_finding_leaves_the_values_as_they_are():
    values = np.array([0.5, 2.5])
    filled([1.0, 2.0]).find(values)
    assert values.tolist() == [0.5, 2.5]


@pytest.mark.parametrize("capacity", [2, 5, 8, 100])
def test_frequencies_are_in_proportion_to_mass(capacity):
    """Pearson's chi-square of independent draws: mean k - 1, variance 2 (k - 1)."""
    rng = np.random.default_rng(capacity)
    masses = rng.uniform(0.2, 3.0, size=capacity)
    tree, draws = filled(masses), 40_000
    counts = np.bincount(tree.find(rng.random(draws) * tree.total), minlength=capacity)
    expected = draws * masses / masses.sum()
    statistic = ((counts - expected) ** 2 / expected).sum()
    freedom = capacity - 1
    assert statistic < freedom + 5 * math.sqrt(2 * freedom)
