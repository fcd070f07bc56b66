"""
Many draws: how often each transition comes, and that nothing else ever does.

REPLAY_DRAWS sets how many are tried with extreme priorities, 1,000,000 unless told.
"""

import math
import os

import numpy as np
import pytest

from tests.buffers.stacks import Part, StackedEnvs
from tests.buffers.test_frames import Pair
from tests.buffers.test_sum_tree import implementation  # noqa: F401

DRAWS = int(float(os.environ.get("REPLAY_DRAWS", 1_000_000)))
BATCH, BATCHES = 100_000, 5 if DRAWS > 10_000_000 else 1  # between changes


def lived(rows, alpha=0.5, seed=0):
    """Two environments, of which the second has short episodes, so that it loses its oldest; and some rows are empty."""
    envs = StackedEnvs({"": Part("first", 4, 1)}, 2, np.random.default_rng(seed))
    return Pair(envs.space(), rows, 2, alpha=alpha), envs


def step(pair, envs):
    pair.run(envs, 1, ends=[(1, 0)] if pair.rng.random() < 0.5 else [(0, 0)] if pair.rng.random() < 0.02 else [])


def prioritize(pair, size, low, high):
    """Of what a batch has, as in training."""
    indices = pair.buffer.sample(size).indices
    priorities = 10 ** pair.rng.uniform(low, high, size=size)
    pair.buffer.update_priorities(indices, priorities)
    pair.oracle.update_priorities(indices, priorities)


@pytest.mark.parametrize("alpha", [0.5, 1.0])
def test_frequencies_match_priorities_after_a_life_of_updates_and_evictions(alpha):
    """Pearson's chi-square, in Wilson and Hilferty's normal approximation; stratified draws only lower it."""
    pair, envs = lived(60, alpha)
    for _ in range(250):
        step(pair, envs)
        prioritize(pair, 32, -2, 1)
    pair.check()
    assert 10 < pair.live()[1] < 40 < pair.live()[0] <= 60
    masses = np.zeros(120)
    for index, transitions in enumerate(pair.oracle.steps):
        slots = pair.oracle.slot(index) + np.arange(2)
        masses[slots] = transitions.masses * (pair.buffer.tree[slots] > 0)
    counts, draws = np.zeros(120), 0
    while draws < 400_000:
        indices = pair.buffer.tree.draw(np.random.random_sample(64))[0] if draws else pair.buffer.sample(64).indices
        np.add.at(counts, indices, 1)
        draws += 64
    assert (counts > 0).tolist() == (masses > 0).tolist()
    expected = (draws * masses / masses.sum())[masses > 0]
    freedom = len(expected) - 1
    statistic = ((counts[masses > 0] - expected) ** 2 / expected).sum()
    z = ((statistic / freedom) ** (1 / 3) - (1 - 2 / (9 * freedom))) / math.sqrt(2 / (9 * freedom))
    assert z < 3.09  # p > 0.001
    # A test of the test: were one transition a tenth more frequent, it would fail
    expected[expected.argmax()] *= 1.1
    statistic = ((counts[masses > 0] - expected) ** 2 / expected).sum()
    assert statistic > freedom + 5 * math.sqrt(2 * freedom)


@pytest.mark.parametrize("rows", [50, pytest.param(1500, marks=pytest.mark.slow)])
def test_extreme_priorities_draw_nothing_that_is_not_there(rows):
    """Neither what is empty nor what was evicted, with the largest and the smallest numbers in all places."""
    pair, envs = lived(rows, alpha=1.0)
    for _ in range(rows // 2):
        step(pair, envs)
    drawn = 0
    edges = [np.zeros(999), np.ones(999), np.full(999, np.nextafter(1.0, 0.0)), np.full(999, 5e-324)]
    while drawn < DRAWS // 2:
        for _ in range(rows // 7):
            step(pair, envs)
        kind = pair.rng.integers(3)
        low, high = [(-12, 12), (-12, -11), (11, 12)][kind]
        prioritize(pair, int(pair.rng.integers(1, 2 * rows)), low, high)
        pair.check()
        there = pair.buffer.tree[np.arange(2 * rows)] > 0
        for u in [*edges, *np.random.random_sample((BATCHES, BATCH))]:
            indices, masses = pair.buffer.tree.draw(u)
            assert indices.min() >= 0 and indices.max() < 2 * rows
            assert there[indices].all() and (masses > 0).all()
        drawn += BATCHES * BATCH
    pair.buffer.sample(100)
