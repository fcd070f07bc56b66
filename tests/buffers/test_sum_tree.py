"""The sum tree, in numpy and compiled: against a loop, at the edges of float64, and the two against each other."""

import math
import os
import pickle
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest

from sb3_distrl.buffers import SumTree
from sb3_distrl.buffers.sum_tree import WIDTH, compiled

ROOT = Path(__file__).resolve().parents[2]
CAPACITIES = [1, 2, 3, 31, 32, 33, 100, 1023, 1024, 1025, 2500]
EDGES = [0.0, 5e-324, 1e-17, 0.5, 1 - 1e-9, np.nextafter(1.0, 0.0), 1.0]
IMPLEMENTATIONS = ["numpy", "compiled"]


def use(monkeypatch, implementation):
    module = compiled()
    if implementation == "compiled" and module is None:
        pytest.skip("numba is not installed")
    monkeypatch.setattr("sb3_distrl.buffers.sum_tree.compiled", lambda: module if implementation == "compiled" else None)


@pytest.fixture(params=IMPLEMENTATIONS, autouse=True)
def implementation(request, monkeypatch):
    """All tests run with both."""
    use(monkeypatch, request.param)
    return request.param


def find_by_loop(masses, value):
    """The leaf at which the running sum first exceeds the value; the last one with mass, if none does."""
    running = 0.0
    for leaf, mass in enumerate(masses):
        running += mass
        if running > value:
            return leaf
    return max(leaf for leaf, mass in enumerate(masses) if mass > 0)


def filled(masses):
    tree = SumTree(len(masses))
    tree.update(np.arange(len(masses)), np.asarray(masses, dtype=np.float64))
    return tree


def total(tree):
    return float(tree.groups.cumsum()[-1])


def drawn(tree, us):
    """:return: for each u what a batch of one draws, which is at u * total"""
    results = [tree.draw(np.array([u], dtype=np.float64)) for u in us]
    for indices, masses in results:
        assert indices.shape == masses.shape == (1,) and masses == tree[indices]
    return [int(indices[0]) for indices, _ in results]


def find(tree, values):
    return drawn(tree, [value / total(tree) for value in values])


# Against a loop


@pytest.mark.parametrize("capacity", CAPACITIES)
def test_updates_and_draws_against_a_loop(capacity):
    rng = np.random.default_rng(capacity)
    tree, masses = SumTree(capacity), [0.0] * capacity
    assert total(tree) == 0
    for _ in range(25):
        indices = rng.integers(capacity, size=rng.integers(1, 2 * capacity + 1))  # with duplicates
        new = rng.integers(0, 4, size=len(indices)).astype(np.float64)  # many zeros; sums of integers are exact
        tree.update(indices, new)
        for index, mass in zip(indices, new, strict=True):
            masses[index] = mass
        assert total(tree) == sum(masses)
        assert tree[np.arange(capacity)].tolist() == masses
        if total(tree) > 0:
            us = np.concatenate([rng.integers(total(tree), size=5) / total(tree), rng.random(10), EDGES])
            assert drawn(tree, us) == [find_by_loop(masses, u * total(tree)) for u in us]
            u = rng.random(rng.integers(1, 50))
            values = (np.arange(len(u)) + u) * (total(tree) / len(u))
            indices, found = tree.draw(u)
            assert indices.tolist() == [find_by_loop(masses, value) for value in values]
            assert found.tolist() == [masses[index] for index in indices]


def test_each_leaf_of_each_level_by_hand():
    """Whole numbers up to a power of two are drawn exactly."""
    for capacity in (32, 1024, 4096):
        tree = filled(np.ones(capacity))
        assert find(tree, range(capacity)) == list(range(capacity))
        assert find(tree, np.nextafter(np.arange(1, capacity + 1), 0.0)) == list(range(capacity))


def test_by_hand():
    tree = filled([1.0, 0.0, 2.5, 0.5, 4.0])
    assert total(tree) == 8.0
    assert find(tree, [0.0, 0.999, 1.0, 3.499, 3.5, 3.999, 4.0, 7.999, 8.0]) == [0, 0, 2, 2, 3, 3, 4, 4, 4]


def test_strata_by_hand():
    """A batch of B takes one of each B-th of the total: 0.5, 2.5, 6, 7 of 8 here."""
    indices, masses = filled([1.0, 0.0, 2.5, 0.5, 4.0]).draw(np.array([0.25, 0.25, 1.0, 0.5]))
    assert indices.tolist() == [0, 2, 4, 4]
    assert masses.tolist() == [1.0, 2.5, 4.0, 4.0]


def test_far_apart_leaves():
    """In the first and last block and group of three levels."""
    capacity = 3 * WIDTH**2 + 5
    tree = SumTree(capacity)
    leaves = np.array([0, WIDTH - 1, WIDTH, WIDTH**2 - 1, WIDTH**2, 2 * WIDTH**2 + 17, capacity - 2, capacity - 1])
    tree.update(leaves, np.full(8, 2.0))
    assert tree.draw(np.full(8, 0.5))[0].tolist() == leaves.tolist()
    assert tree.draw(np.zeros(8))[0].tolist() == leaves.tolist()
    assert tree.draw(np.ones(8))[0].tolist() == [*leaves[1:].tolist(), capacity - 1]


def test_last_of_duplicates_counts():
    tree = filled([1.0, 1.0, 1.0])
    tree.update(np.array([2, 0, 2, 0, 2]), np.array([5.0, 6.0, 7.0, 8.0, 9.0]))
    assert tree[np.arange(3)].tolist() == [8.0, 1.0, 9.0]
    assert total(tree) == 18.0


def test_no_update_changes_nothing():
    tree = filled([1.0, 2.0])
    tree.update(np.zeros(0, dtype=np.int64), np.zeros(0))
    assert total(tree) == 3.0


# Numbers


def test_sums_are_float64():
    tree = filled([1.0, 1e-12, 0.0])
    assert tree.masses.dtype == tree.blocks.dtype == tree.groups.dtype == np.float64
    assert total(tree) == 1.0 + 1e-12 > 1.0


@pytest.mark.parametrize("capacity", [37, 2000])
def test_no_error_builds_up(capacity):
    """Sums that are adjusted by differences drift, and are not zero again when all masses are."""
    rng = np.random.default_rng(0)
    tree = SumTree(capacity)
    for _ in range(2000):
        tree.update(rng.integers(capacity, size=5), 10.0 ** rng.uniform(-12, 12, size=5))
    assert total(tree) == pytest.approx(math.fsum(tree[np.arange(capacity)]), rel=1e-13)
    tree.check_valid()
    tree.update(np.arange(capacity), np.zeros(capacity))
    assert total(tree) == 0.0 and not tree.blocks.any() and not tree.groups.any()
    tree.update(np.array([20]), np.array([1e-12]))
    assert total(tree) == 1e-12 and drawn(tree, EDGES) == [20] * len(EDGES)


@pytest.mark.parametrize("capacity", CAPACITIES)
@pytest.mark.parametrize("scale", ["even", "extreme"])
def test_never_draws_a_leaf_without_mass(capacity, scale):
    """Not even where rounding has brought a value up to the total, or past it."""
    rng = np.random.default_rng(capacity)
    for _ in range(20):
        masses = 10.0 ** rng.uniform(-12, 12, size=capacity) if scale == "extreme" else 0.1 * rng.random(capacity)
        masses[rng.random(capacity) < 0.5] = 0.0
        masses[rng.integers(capacity)] = 0.3
        tree = filled(masses)
        sums = np.cumsum(masses)[rng.integers(capacity, size=10)] / total(tree)
        edges = np.clip(np.concatenate([sums, np.nextafter(sums, 0), np.nextafter(sums, 1), EDGES]), 0, 1)
        indices = np.concatenate([drawn(tree, edges), *(tree.draw(np.full(7, u))[0] for u in EDGES)])
        indices = np.concatenate([indices, tree.draw(rng.random(200))[0], tree.draw(np.ones(333))[0]])
        assert indices.min() >= 0 and indices.max() < capacity
        assert (tree[indices] > 0).all()


@pytest.mark.parametrize("far", [1, WIDTH, WIDTH**2])
def test_rounding_that_leaves_a_node_behind(far):
    """The last number before the sum, less the first mass, is not below the second: past the end of what it leads to."""
    first, second = 0.046051218784245423, 0.3299042962326978
    assert np.nextafter(first + second, 0.0) - first >= second
    tree = SumTree(far + 40)
    tree.update(np.array([0, far]), np.array([first, second]))
    assert drawn(tree, [0.0, np.nextafter(1.0, 0.0), 1.0]) == [0, far, far]
    tree.update(np.array([0, far, far + 7]), np.array([first, 0.0, second]))
    assert drawn(tree, [0.0, np.nextafter(1.0, 0.0), 1.0]) == [0, far + 7, far + 7]


@pytest.mark.parametrize("capacity", [1, 2, 33, 100, 1025])
def test_the_only_leaf_with_mass_is_drawn(capacity):
    for leaf in {0, 1 % capacity, 31 % capacity, capacity // 2, capacity - 1}:
        for mass in (5e-324, 1e-12, 0.1, 1e12, 1e300):
            tree = SumTree(capacity)
            tree.update(np.array([leaf]), np.array([mass]))
            assert drawn(tree, EDGES) == [leaf] * len(EDGES)
            for u in EDGES:
                assert (tree.draw(np.full(3, u))[0] == leaf).all()


def test_a_huge_mass_takes_no_notice_of_tiny_ones():
    masses = np.full(100, 1e-12)
    masses[50] = 1e12
    tree = filled(masses)
    assert (tree.draw(np.random.random_sample(1000))[0][1:-1] == 50).all()
    assert drawn(tree, [0.0]) == [0]


def test_an_empty_tree_has_nothing_to_draw():
    for tree in (SumTree(3), filled([0.0, 0.0])):
        indices, masses = tree.draw(np.array([0.0, 0.5, 1.0]))
        assert indices.shape == masses.shape == (0,)


def test_drawing_leaves_its_argument_and_the_tree_as_they_are():
    u, tree = np.array([0.5, 0.25]), filled([1.0, 2.0])
    indices, masses = tree.draw(u)
    indices.fill(7), masses.fill(7)
    assert u.tolist() == [0.5, 0.25] and tree[np.arange(2)].tolist() == [1.0, 2.0]
    tree.check_valid()


def test_masses_that_are_read_are_a_copy():
    tree = filled([1.0, 2.0])
    tree[np.arange(2)].fill(9.0)
    assert tree[np.array([1, 0, 1])].tolist() == [2.0, 1.0, 2.0]


@pytest.mark.parametrize("capacity", [2, 5, 100, 1500])
def test_frequencies_are_in_proportion_to_mass(capacity):
    """Pearson's chi-square of independent draws: mean k - 1, variance 2 (k - 1)."""
    rng = np.random.default_rng(capacity)
    masses = rng.uniform(0.2, 3.0, size=capacity)
    tree, draws = filled(masses), 10_000
    counts = np.bincount(drawn(tree, rng.random(draws)), minlength=capacity)
    expected = draws * masses / masses.sum()
    statistic = ((counts - expected) ** 2 / expected).sum()
    freedom = capacity - 1
    assert abs(statistic - freedom) < 5 * math.sqrt(2 * freedom)


@pytest.mark.parametrize("capacity", [2, 100, 3000])
def test_stratified_draws_are_off_by_less_than_two(capacity):
    """A leaf's share of the total is whole strata but for two cut ones at its ends."""
    masses = np.random.default_rng(capacity).uniform(0.0, 3.0, size=capacity)
    tree, draws = filled(masses), 50_000
    counts = np.bincount(tree.draw(np.random.random_sample(draws))[0], minlength=capacity)
    assert (abs(counts - draws * masses / masses.sum()) < 2 + 1e-6).all()


# Both implementations


@pytest.mark.parametrize("implementation", ["compiled"], indirect=True)  # skips where it is not there
@pytest.mark.parametrize("capacity", [1, 2, 7, 31, 32, 33, 64, 500, 1023, 1024, 1025, 2047, 2049, 5000])
def test_both_agree_to_the_bit(capacity, monkeypatch):
    rng = np.random.default_rng(capacity)
    numpy_tree, compiled_tree = SumTree(capacity), SumTree(capacity)
    for step in range(15):
        size = int(rng.integers(1, capacity + 2))
        indices = rng.integers(capacity, size=size)
        masses = 10.0 ** rng.uniform(-12, 12, size=size) if step % 3 else rng.random(size)
        masses[rng.random(size) < 0.3] = 0.0
        masses[-1] = 1.0 / 3.0
        batches = [np.full(3, u) for u in EDGES] + [np.array([u]) for u in EDGES]
        batches += [rng.random(int(rng.integers(1, 300))), np.ones(101), np.full(64, np.nextafter(1.0, 0.0))]
        results = []
        for tree, name in ((numpy_tree, "numpy"), (compiled_tree, "compiled")):
            with monkeypatch.context() as patch:
                use(patch, name)
                tree.update(indices, masses)
                draws = [part for u in batches for part in tree.draw(u)]
            results.append([np.float64(total(tree)), tree.masses, tree.blocks, tree.groups, *draws])
        for one, other in zip(*results, strict=True):
            assert one.dtype == other.dtype and one.shape == other.shape
            assert one.tobytes() == other.tobytes()


@pytest.mark.parametrize("implementation", ["compiled"], indirect=True)
@pytest.mark.parametrize("capacity", [3, 49, 1000, 3001])
def test_both_agree_where_each_rounding_shows(capacity, monkeypatch):
    """Strata of the size of a mass, whose ends are boundaries but for the last bit."""
    for mass in (0.1, 1 / 3, 1e-7, np.pi):
        tree, results = filled(np.full(capacity, mass)), []
        for name in IMPLEMENTATIONS:
            with monkeypatch.context() as patch:
                use(patch, name)
                results.append([tree.draw(np.full(capacity, u))[0].tolist() for u in (0.0, 1.0, np.nextafter(1.0, 0.0))])
        assert results[0] == results[1]


# Checks and copies


@pytest.mark.parametrize("capacity", [1, 40, 1500])
def test_what_is_whole_is_valid(capacity):
    SumTree(capacity).check_valid()
    filled(10.0 ** np.random.default_rng(0).uniform(-12, 12, size=capacity)).check_valid()


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf, -1.0])
@pytest.mark.parametrize("where", [0, 39])
def test_a_bad_mass_shows(where, bad):
    tree = filled(np.ones(40))
    tree.update(np.array([where]), np.array([bad]))
    with pytest.raises(ValueError, match="sum tree is broken: a mass is negative or not finite"):
        tree.check_valid()


@pytest.mark.parametrize("beyond", [40, 63, 1023])
def test_a_mass_beyond_the_capacity_shows(beyond):
    tree = filled(np.ones(40))
    tree.update(np.array([beyond]), np.array([1.0]))
    with pytest.raises(ValueError, match="is beyond the capacity"):
        tree.check_valid()


@pytest.mark.parametrize("factor", [0.0, 1 + 1e-15, 2.0])
@pytest.mark.parametrize("sums", ["blocks", "groups"])
def test_a_broken_sum_shows(sums, factor):
    tree = filled(np.random.default_rng(0).random(1500))
    getattr(tree, sums).reshape(-1)[-1 if sums == "groups" else 46] *= factor
    with pytest.raises(ValueError, match="a sum does not equal the sum of its masses"):
        tree.check_valid()


@pytest.mark.parametrize("capacity", CAPACITIES)
def test_a_pickled_tree_is_the_same_to_the_bit(capacity):
    tree = filled(10.0 ** np.random.default_rng(capacity).uniform(-12, 12, size=capacity))
    loaded = pickle.loads(pickle.dumps(tree))
    assert loaded.capacity == capacity
    for name in ("masses", "blocks", "groups"):
        one, other = getattr(tree, name), getattr(loaded, name)
        assert one.shape == other.shape and one.tobytes() == other.tobytes()
    loaded.update(np.array([0]), np.array([1e20]))  # its arrays are its own
    tree.check_valid()
    loaded.check_valid()
    assert total(tree) != total(loaded) == pytest.approx(1e20)


@pytest.mark.parametrize("error", [ModuleNotFoundError, ImportError, RuntimeError])
def test_without_numba_it_goes_on_in_numpy(error, monkeypatch):
    """It is not installed, or finds no folder to keep compiled code in."""

    def njit(*args, **kwargs):
        raise error("cannot cache function 'update': no locator available")

    pytest.importorskip("numba")
    monkeypatch.delitem(sys.modules, "sb3_distrl.buffers.sum_tree_numba", raising=False)
    monkeypatch.delattr("sb3_distrl.buffers.sum_tree_numba", raising=False)
    monkeypatch.setattr("numba.njit", njit)
    monkeypatch.setattr("sb3_distrl.buffers.sum_tree.compiled", compiled)
    compiled.cache_clear()
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            assert compiled() is None
        told = [str(warning.message) for warning in caught if "numba is installed but cannot be used" in str(warning.message)]
        assert len(told) == (error is not ModuleNotFoundError), "who asked for it is told; who did not, is not"
        assert filled([0.0, 2.0]).draw(np.array([0.5]))[0].tolist() == [1]
    finally:
        compiled.cache_clear()


@pytest.mark.parametrize("shape", [(2, 1), (3,), (1,), (3, 2), ()])
@pytest.mark.parametrize("only_drawable", [False, True])
def test_masses_of_a_wrong_shape(only_drawable, shape):
    tree = filled([1.0, 2.0, 4.0])
    with pytest.raises(ValueError, match="masses of shape"):
        tree.update(np.array([0, 1]), np.full(shape, 50.0), only_drawable)
    assert total(tree) == 7


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "fork"), reason="sends SIGINT to forked processes")
def test_interrupts_of_the_import(tmp_path, implementation):
    """Ctrl-C while numba is imported, which takes most of the first second of learn(), leaves it usable."""
    pytest.importorskip("numba")
    if implementation == "compiled":
        command = [sys.executable, "-m", "tests.buffers.interrupted_imports", str(tmp_path)]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr[-3000:]
