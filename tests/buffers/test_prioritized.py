"""What is drawn, how often, and with which weight."""

import re

import numpy as np
import pytest
import torch as th
from stable_baselines3.common.type_aliases import DictReplayBufferSamples, ReplayBufferSamples

from sb3_distrl.buffers import PrioritizedReplayBufferSamples
from tests.buffers.naive_replay import CLASSES, Episodes, decode, feed, make_buffer

pytestmark = pytest.mark.usefixtures("optimize")

EPS = 1e-9  # of priorities, where it must not show


def filled(steps, n_envs=1, buffer_class=CLASSES[0], **kwargs):
    kwargs.setdefault("priority_eps", EPS)
    buffer, episodes = make_buffer(buffer_class, n_envs=n_envs, **kwargs), Episodes(n_envs)
    for _ in range(steps):
        feed(buffer, episodes.step())
    return buffer, episodes


def set_priorities(buffer, priorities):
    """By slot; slots are what ``sample`` names in ``indices``."""
    buffer.update_priorities(np.arange(len(priorities)), np.array(priorities))


def assert_drawn(buffer, masses, size=1000):
    """Stratified draws come in proportion to mass, but for one or two at the ends of a slot's share."""
    counts = np.bincount(buffer.sample(size).indices, minlength=len(masses))
    assert len(counts) == len(masses)
    assert counts == pytest.approx(size * np.array(masses) / sum(masses), abs=2)


# A batch


@pytest.mark.parametrize("buffer_class", CLASSES)
def test_batch_has_sb3_fields_shapes_and_types(buffer_class):
    buffer, _ = filled(5, 3, buffer_class, rows=8, n_steps=3)
    batch = buffer.sample(7)
    assert isinstance(batch, PrioritizedReplayBufferSamples)
    assert ReplayBufferSamples._fields == DictReplayBufferSamples._fields == batch._fields[:6]
    assert batch._fields[6:] == ("weights", "indices")
    for name in ("rewards", "dones", "discounts", "weights"):
        column = getattr(batch, name)
        assert column.shape == (7, 1) and column.dtype == th.float32, name
    assert batch.actions.shape == (7, 1) and batch.actions.dtype == th.int64
    assert batch.indices.shape == (7,) and np.issubdtype(batch.indices.dtype, np.integer)
    for observations in (batch.observations, batch.next_observations):
        if isinstance(observations, dict):
            assert observations["env"].shape == (7, 1) and observations["env"].dtype == th.int64
            assert observations["serial"].shape == (7, 1, 1) and observations["serial"].dtype == th.float32
        else:
            assert observations.shape == (7, 2) and observations.dtype == th.float32


def test_a_batch_is_a_copy():
    buffer, _ = filled(2)
    batch = buffer.sample(4)
    for tensor in (batch.observations, batch.next_observations, batch.actions, batch.rewards, batch.dones):
        tensor.fill_(-1)
    batch.indices.fill(0)
    again = buffer.sample(4)
    assert all((tensor != -1).all() for tensor in (again.observations, again.next_observations, again.actions))
    assert set(again.indices) == {0, 1}


# Sampling


@pytest.mark.parametrize("alpha", [0.0, 0.5, 1.0, 0.9])
def test_sampling_is_in_proportion_to_priority_to_the_alpha(alpha):
    """alpha applied twice, or not at all, shows at 0.5."""
    buffer, _ = filled(2, 3, alpha=alpha)
    priorities = [1.0, 4.0, 9.0, 0.25, 16.0, 2.0]
    set_priorities(buffer, priorities)
    assert_drawn(buffer, [priority**alpha for priority in priorities])


@pytest.mark.parametrize("alpha", [0.0, 0.5])
def test_weights_by_the_formula(alpha):
    """(N P(i))^-beta, divided by the largest of the batch (Schaul et al. 2016, section 3.4)."""
    buffer, _ = filled(2, 3, alpha=alpha, beta=0.4)
    masses = [priority**alpha for priority in (1.0, 4.0, 9.0, 0.25, 16.0, 2.0)]
    set_priorities(buffer, [1.0, 4.0, 9.0, 0.25, 16.0, 2.0])
    for beta, batch in [(0.4, buffer.sample(5)), (0.9, buffer.sample(4, beta=0.9)), (0.0, buffer.sample(3, beta=0.0))]:
        raw = [(6 * masses[slot] / sum(masses)) ** -beta for slot in batch.indices]
        assert batch.weights.flatten().tolist() == pytest.approx([weight / max(raw) for weight in raw])
        assert batch.weights.max() == 1
    assert (buffer.sample(50).weights < 0.5).any() or alpha == 0


def test_weights_are_normalised_by_the_largest_of_the_batch_not_of_the_buffer():
    buffer, _ = filled(2, alpha=1.0)
    set_priorities(buffer, [1e-6, 1.0])
    batch = buffer.sample(5)
    assert batch.indices.tolist() == [1] * 5 and batch.weights.tolist() == [[1.0]] * 5


def test_alpha_zero_is_uniform_whatever_the_priorities():
    buffer, episodes = filled(4, alpha=0.0)
    set_priorities(buffer, [1e-3, 1.0, 1e3, 1e6])
    feed(buffer, episodes.step())
    assert_drawn(buffer, [1.0] * 5)
    assert (buffer.sample(30).weights == 1).all()


def test_each_stratum_has_one_draw_of_its_own():
    buffer, _ = filled(50, 2, rows=100)
    offsets = []
    for _ in range(30):
        indices = buffer.sample(10).indices
        assert (indices // 10).tolist() == list(range(10))  # one of each tenth
        offsets.append(indices % 10)
    assert all(len(set(row)) > 1 for row in offsets)  # not the same place in all
    assert set(np.concatenate(offsets)) == set(range(10))


def test_a_batch_as_large_as_the_total_mass_holds_each_in_exact_proportion():
    buffer, _ = filled(4, alpha=0.5)
    set_priorities(buffer, [1.0, 4.0, 9.0, 16.0])
    for _ in range(50):
        assert np.bincount(buffer.sample(10).indices).tolist() == [1, 2, 3, 4]


@pytest.mark.parametrize("u", [0.0, 1.0, np.nextafter(1.0, 0)])
@pytest.mark.parametrize(("rows", "n_envs", "steps"), [(5, 1, 3), (8, 1, 1), (7, 3, 4), (4, 2, 4)])
@pytest.mark.parametrize("buffer_class", CLASSES)
def test_unfilled_slots_are_never_drawn(buffer_class, rows, n_envs, steps, u, monkeypatch):
    """Even where rounding brings the largest draw up to the total."""
    buffer, _ = filled(steps, n_envs, buffer_class, rows=rows)
    buffer.update_priorities(np.arange(steps * n_envs), 0.1 + np.random.rand(steps * n_envs))
    monkeypatch.setattr(np.random, "random_sample", lambda size: np.full(size, u))
    for size in (1, 2, 3, 7, 999):
        batch = buffer.sample(size)
        assert batch.indices.max() < steps * n_envs
        assert all(serial > 0 for _, serial in decode(batch.observations))


# Priorities


def test_new_transitions_get_the_largest_priority_seen():
    buffer, episodes = filled(2, alpha=1.0)
    assert_drawn(buffer, [1.0, 1.0])
    set_priorities(buffer, [0.25, 0.5])
    feed(buffer, episodes.step())
    assert_drawn(buffer, [0.25, 0.5, 1.0])  # the first ones had 1
    set_priorities(buffer, [8.0])
    set_priorities(buffer, [0.5, 0.5, 2.0])
    feed(buffer, episodes.step())
    assert_drawn(buffer, [0.5, 0.5, 2.0, 8.0])  # though none of that size is left


def test_the_largest_priority_gets_alpha_once():
    buffer, episodes = filled(1, alpha=0.5)
    set_priorities(buffer, [16.0])
    feed(buffer, episodes.step())
    set_priorities(buffer, [1.0])
    for _ in range(2):
        feed(buffer, episodes.step())
    assert_drawn(buffer, [1.0, 4.0, 4.0, 4.0])


def test_overwritten_slots_take_the_new_priority():
    buffer, episodes = filled(4, rows=4, alpha=1.0)
    set_priorities(buffer, [0.1, 2.0, 0.1, 1.0])
    feed(buffer, episodes.step())  # over slot 0
    assert_drawn(buffer, [2.0, 2.0, 0.1, 1.0])
    assert buffer.size() == 4


def test_updates_name_the_transitions_by_the_indices_of_the_sample():
    buffer, _ = filled(5, 3, rows=8, alpha=1.0)
    batch = buffer.sample(60)
    serials = batch.observations[:, 1]
    buffer.update_priorities(batch.indices, serials)
    batch = buffer.sample(2000)
    drawn, counts = np.unique(batch.observations[:, 1].numpy(), return_counts=True)
    assert set(drawn) == set(serials.tolist())
    assert counts == pytest.approx(2000 * drawn / drawn.sum(), abs=2)


def test_the_last_of_duplicates_counts():
    buffer, _ = filled(3, alpha=1.0)
    buffer.update_priorities(np.array([0, 2, 0, 0]), np.array([9.0, 3.0, 5.0, 2.0]))
    assert_drawn(buffer, [2.0, 1.0, 3.0])


@pytest.mark.parametrize(
    "convert",
    [
        lambda x: x,
        lambda x: x[:, None],
        lambda x: x.tolist(),
        lambda x: x.astype(np.float32),
        lambda x: -x,
        lambda x: th.tensor(x),
        lambda x: th.tensor(x, dtype=th.float32)[:, None],
        lambda x: -th.tensor(x, requires_grad=True)[:, None],
        lambda x: th.tensor(x, dtype=th.bfloat16),
        lambda x: th.tensor(x, dtype=th.float16)[:, None],
        lambda x: x.astype(np.float16),
    ],
)
def test_kinds_of_priorities(convert):
    buffer, _ = filled(4, alpha=1.0)
    buffer.update_priorities(np.array([3, 0, 1]), convert(np.array([4.0, 1.0, 0.5])))
    assert_drawn(buffer, [1.0, 0.5, 1.0, 4.0])
    buffer.update_priorities([2], convert(np.array([3.0])))
    assert_drawn(buffer, [1.0, 0.5, 3.0, 4.0])


WRONG_SHAPES = [(2, 3), (3, 2), (3,), (1,), (6,), (1, 2), (2, 2), (2, 1, 1), ()]


@pytest.mark.parametrize("kind", [np.ones, th.ones], ids=["numpy", "torch"])
@pytest.mark.parametrize("shape", WRONG_SHAPES)
@pytest.mark.parametrize("with_numba", [False, True])
def test_priorities_of_a_wrong_shape_are_rejected_and_change_nothing(with_numba, shape, kind, monkeypatch):
    if not with_numba:
        monkeypatch.setattr("sb3_distrl.buffers.sum_tree.compiled", lambda: None)
    buffer, episodes = filled(3, alpha=1.0)
    set_priorities(buffer, [1.0, 2.0, 4.0])
    message = rf"^priorities has shape {re.escape(str(shape))} and should have \(2,\): give one for each index"
    with pytest.raises(ValueError, match=message):
        buffer.update_priorities(np.array([0, 1]), 50 * kind(shape))
    assert_drawn(buffer, [1.0, 2.0, 4.0])
    feed(buffer, episodes.step())
    assert_drawn(buffer, [1.0, 2.0, 4.0, 4.0])


@pytest.mark.parametrize(
    ("indices", "message"),
    [
        ([0, -1], r"^indices=-1 is not one of the buffer's 8 slots"),
        ([8, 0], r"^indices=8 is not one of the buffer's 8 slots"),
        ([0, 10**9], "^indices=1000000000 is not one"),
        ([0.0, 1.0], r"^indices of shape \(2,\) and type float64 should be whole numbers of shape \[B\]"),
        ([True, False], "^indices of .* type bool should"),
        ([[0], [1]], r"^indices of shape \(2, 1\) and type int64 should"),
        (0, r"^indices of shape \(\) and"),
    ],
)
@pytest.mark.parametrize("with_numba", [False, True])
def test_indices_that_no_sample_has_are_rejected_and_change_nothing(with_numba, indices, message, monkeypatch):
    """Nor may a negative one count from the end."""
    if not with_numba:
        monkeypatch.setattr("sb3_distrl.buffers.sum_tree.compiled", lambda: None)
    buffer, _ = filled(8, alpha=1.0)
    masses = buffer.tree[np.arange(8)].tolist()
    with pytest.raises(ValueError, match=message):
        buffer.update_priorities(np.array(indices), np.full(2, 50.0))
    assert buffer.tree[np.arange(8)].tolist() == masses and buffer.max_priority == 1


@pytest.mark.parametrize("dtype", [np.int32, np.uint64, np.uint8])
def test_indices_of_any_integer_type(dtype):
    buffer, _ = filled(3, alpha=1.0)
    buffer.update_priorities(np.array([2, 0], dtype), np.array([3.0, 2.0]))
    assert_drawn(buffer, [2.0, 1.0, 3.0])
    buffer.update_priorities(np.array([], dtype), np.array([]))
    buffer.update_priorities([], [])
    assert_drawn(buffer, [2.0, 1.0, 3.0])


def test_priority_eps_keeps_a_zero_priority_alive():
    buffer, _ = filled(3, alpha=0.5, priority_eps=0.25)
    set_priorities(buffer, [0.0, 2.0, 0.0])
    assert_drawn(buffer, [0.5, 1.5, 0.5])


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_priorities_that_are_not_finite_are_rejected_and_change_nothing(bad):
    buffer, episodes = filled(3, alpha=1.0)
    set_priorities(buffer, [1.0, 2.0, 4.0])
    for priorities in (np.array([50.0, bad]), th.tensor([[50.0], [bad]])):
        with pytest.raises(ValueError, match=r"priorities=.* is not finite.*: lower the learning rate or clip the rewards"):
            buffer.update_priorities(np.array([0, 1]), priorities)
    assert_drawn(buffer, [1.0, 2.0, 4.0])
    feed(buffer, episodes.step())
    assert_drawn(buffer, [1.0, 2.0, 4.0, 4.0])


def test_emptied_buffer_forgets_transitions_and_priorities():
    buffer, episodes = filled(4, rows=4, alpha=1.0)
    set_priorities(buffer, [50.0, 2.0, 3.0, 4.0])
    buffer.reset()
    for _ in range(2):
        feed(buffer, episodes.step())
    set_priorities(buffer, [0.5])
    assert_drawn(buffer, [0.5, 1.0])


def test_updates_give_no_mass_to_slots_that_were_emptied():
    buffer, episodes = filled(5, rows=8)
    indices = buffer.sample(4).indices
    buffer.reset()
    buffer.update_priorities(indices, np.full(4, 3.0))
    for serial in range(3):
        feed(buffer, episodes.step())
        assert set(buffer.sample(60).indices) == set(range(serial + 1))
    buffer.update_priorities(np.arange(8), np.full(8, 3.0))
    assert set(buffer.sample(60).indices) == {0, 1, 2}
    buffer.check_valid()
