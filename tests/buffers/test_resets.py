"""Resets behind the buffer's back: no n-step return reaches across, and nothing of them stays when rows are overwritten."""

import copy
import pickle

import pytest

from tests.buffers.naive_replay import CLASSES, Episodes, NaiveReplay, Transition, assert_same, feed, make_buffer, sampled

pytestmark = pytest.mark.usefixtures("optimize")

GAMMA = 0.5


def step(serial, reward=1.0, env=0, jump=0, **kwargs):
    return Transition((env, serial), 0, reward, (env, serial + 1 + jump), **kwargs)


def constant(reward, env=0, **kwargs):
    """An environment with one observation, where the buffer cannot see a reset."""
    return Transition((env, 7), 0, reward, (env, 7), **kwargs)


def returns(buffer):
    """:return: for each slot of one environment, in order of time: return, discount, done"""
    batch = buffer.sample(3 * buffer.size())
    columns = (batch.indices, batch.rewards, batch.discounts, batch.dones)
    return [row[1:] for row in sorted(set(zip(*(column.flatten().tolist() for column in columns), strict=True)))]


@pytest.mark.parametrize("buffer_class", CLASSES)
def test_an_observation_that_does_not_continue_starts_a_new_episode(buffer_class):
    buffer = make_buffer(buffer_class, n_steps=3, gamma=GAMMA)
    for serial in (0, 1, 50, 51):
        feed(buffer, [step(serial, reward=serial + 1.0)])
    assert sampled(buffer) == {
        (0, 0): [0, 2.0, 0.25, (0, 2), 0.0],  # bootstraps from where the first episode was left
        (0, 1): [0, 2.0, 0.5, (0, 2), 0.0],
        (0, 50): [0, 77.0, 0.25, (0, 52), 0.0],
        (0, 51): [0, 52.0, 0.5, (0, 52), 0.0],
    }


@pytest.mark.parametrize("start", [(0, 3), (5, 2), (5, 3)])
@pytest.mark.parametrize("buffer_class", CLASSES)
def test_a_new_episode_shows_in_any_part_of_an_observation(buffer_class, start):
    """In one number of an array, in one key of a Dict."""
    buffer = make_buffer(buffer_class, n_steps=2, gamma=GAMMA)
    feed(buffer, [Transition((0, 1), 0, 1.0, (0, 2))])
    feed(buffer, [Transition(start, 0, 2.0, (0, 9))])
    assert returns(buffer) == [(1.0, 0.5, 0.0), (2.0, 0.5, 0.0)]


@pytest.mark.parametrize("buffer_class", CLASSES)
def test_only_the_environment_that_was_reset_is_cut(buffer_class):
    buffer, naive = make_buffer(buffer_class, n_envs=3, n_steps=5), NaiveReplay(8, 3, 5, 0.99)
    episodes = Episodes(3, termination=0.0, truncation=0.0)
    for t in range(7):
        if t == 3:
            episodes.reset(1)
            naive.interrupt(1)
        transitions = episodes.step()
        naive.add(transitions)
        feed(buffer, transitions)
    assert_same(sampled(buffer), naive.expected())


def test_constant_observations_need_end_episodes():
    """The buffer cannot know of a reset to the same observation; told of it, it keeps the episodes apart."""
    for told in (False, True):
        buffer = make_buffer(n_steps=3, gamma=GAMMA)
        feed(buffer, [constant(1.0)])
        feed(buffer, [constant(2.0)])
        if told:
            buffer.end_episodes()
        feed(buffer, [constant(4.0)])
        first, second = ((2.0, 0.25, 0.0), (2.0, 0.5, 0.0)) if told else ((3.0, 0.125, 0.0), (4.0, 0.25, 0.0))
        assert returns(buffer) == [first, second, (4.0, 0.5, 0.0)]


def test_end_episodes_ends_them_in_all_environments():
    buffer = make_buffer(n_envs=3, n_steps=2, gamma=GAMMA)
    feed(buffer, [constant(1.0, env) for env in range(3)])
    buffer.end_episodes()
    feed(buffer, [constant(2.0, env) for env in range(3)])
    batch = buffer.sample(60)
    assert set(batch.rewards.flatten().tolist()) == {1.0, 2.0}
    assert set(batch.discounts.flatten().tolist()) == {GAMMA}


@pytest.mark.parametrize("times", [1, 2])
def test_end_episodes_in_the_last_row_of_a_full_buffer(times):
    buffer = make_buffer(rows=3, n_steps=2, gamma=GAMMA)
    for reward in (1.0, 2.0, 4.0):
        feed(buffer, [constant(reward)])
    for _ in range(times):
        buffer.end_episodes()
    feed(buffer, [constant(8.0)])
    # Slots: the newest, then 2 and 4 of the episode that was ended
    assert returns(buffer) == [(8.0, 0.5, 0.0), (4.0, 0.25, 0.0), (4.0, 0.5, 0.0)]


@pytest.mark.parametrize("handle_timeouts", [True, False])
def test_end_episodes_leaves_a_termination_a_termination(handle_timeouts):
    buffer = make_buffer(n_steps=2, gamma=GAMMA, handle_timeout_termination=handle_timeouts)
    feed(buffer, [step(0)])
    feed(buffer, [step(1, terminated=True)])
    before = sampled(buffer)
    buffer.end_episodes()
    assert sampled(buffer) == before
    assert before[0, 1][-1] == before[0, 0][-1] == 1.0


def test_end_episodes_of_an_empty_buffer_does_nothing():
    buffer = make_buffer(rows=3, n_steps=2, gamma=GAMMA)
    buffer.end_episodes()
    for reward in (1.0, 2.0, 4.0):
        feed(buffer, [constant(reward)])
    assert returns(buffer) == [(2.0, 0.25, 0.0), (4.0, 0.25, 0.0), (4.0, 0.5, 0.0)]


@pytest.mark.parametrize("duplicate", [lambda b: pickle.loads(pickle.dumps(b)), copy.deepcopy])
@pytest.mark.parametrize("make_step", [lambda t: constant(t + 1.0), lambda t: step(t, t + 1.0)])
@pytest.mark.parametrize("buffer_class", CLASSES)
def test_a_reloaded_buffer_starts_new_episodes(buffer_class, make_step, duplicate):
    """Even where the new episode's first observation is the one that the old one was left at."""
    buffer = make_buffer(buffer_class, n_steps=3, gamma=GAMMA)
    for t in range(2):
        feed(buffer, [make_step(t)])
    loaded = duplicate(buffer)
    assert returns(loaded) == returns(buffer) == [(2.0, 0.25, 0.0), (2.0, 0.5, 0.0)]
    for some in (buffer, loaded):
        feed(some, [make_step(2)])
    assert returns(loaded) == [(2.0, 0.25, 0.0), (2.0, 0.5, 0.0), (3.0, 0.5, 0.0)]
    assert returns(buffer) == [(2.75, 0.125, 0.0), (3.5, 0.25, 0.0), (3.0, 0.5, 0.0)]  # the original goes on


def test_a_reloaded_buffer_keeps_priorities_and_settings():
    buffer = make_buffer(rows=4, n_steps=2, gamma=GAMMA, alpha=0.7, beta=0.3, priority_eps=0.1)
    for serial in range(2):
        feed(buffer, [step(serial)])
    batch = buffer.sample(40)
    buffer.update_priorities(batch.indices, batch.observations[:, 1] * 8.9)
    loaded = pickle.loads(pickle.dumps(buffer))
    for some in (buffer, loaded):  # 0.1, 9, and the largest seen for the new one
        feed(some, [step(2)])
        batch = some.sample(1000)
        counts = [sum(batch.indices == slot) for slot in range(3)]
        masses = [0.1**0.7, 9**0.7, 9**0.7]
        assert counts == pytest.approx([1000 * mass / sum(masses) for mass in masses], abs=2)
        assert batch.weights[batch.indices == 1][0].item() == pytest.approx((masses[0] / masses[1]) ** 0.3)


@pytest.mark.parametrize("handle_timeouts", [True, False])
@pytest.mark.parametrize("buffer_class", CLASSES)
def test_an_overwritten_row_forgets_that_it_was_interrupted(buffer_class, handle_timeouts):
    """Where it does not handle timeouts, SB3 never writes to these flags."""
    buffer = make_buffer(buffer_class, rows=4, n_steps=2, gamma=GAMMA, handle_timeout_termination=handle_timeouts)
    for serial in (0, 10, 20, 30):  # each cut off from the next
        feed(buffer, [step(serial)])
    for serial in range(100, 103):
        feed(buffer, [step(serial)])
    feed(buffer, [step(103, terminated=True)])
    assert sampled(buffer) == {
        (0, 100): [0, 1.5, 0.25, (0, 102), 0.0],
        (0, 101): [0, 1.5, 0.25, (0, 103), 0.0],
        (0, 102): [0, 1.5, 0.25, (0, 104), 1.0],
        (0, 103): [0, 1.0, 0.5, (0, 104), 1.0],
    }


@pytest.mark.parametrize("handle_timeouts", [True, False])
def test_a_buffer_that_was_emptied_forgets_its_episodes(handle_timeouts):
    buffer = make_buffer(rows=4, n_steps=2, gamma=GAMMA, handle_timeout_termination=handle_timeouts)
    for serial in (0, 10, 20):
        feed(buffer, [step(serial, terminated=serial == 10)])
    buffer.reset()
    assert buffer.size() == 0
    for serial in range(5, 8):
        feed(buffer, [step(serial)])
    assert returns(buffer) == [(1.5, 0.25, 0.0), (1.5, 0.25, 0.0), (1.0, 0.5, 0.0)]


@pytest.mark.parametrize("change", [dict(format=0), dict(format=None), {}])
def test_a_buffer_of_another_version_cannot_be_loaded(change):
    buffer = make_buffer()
    feed(buffer, [step(0)])
    state = buffer.__getstate__()
    del state["format"]
    with pytest.raises(ValueError, match=r"saved by another version of sb3_distrl: use that version, or fill a new buffer"):
        buffer.__setstate__({**state, **change})


@pytest.mark.parametrize("buffer_class", CLASSES)
def test_a_saved_buffer_holds_what_is_filled(buffer_class):
    """But for the masses, 8 bytes for each transition."""
    buffer = make_buffer(buffer_class, rows=100_000)
    assert len(pickle.dumps(buffer)) < 5_000
    for serial in range(3):
        feed(buffer, [step(serial)])
    saved = pickle.dumps(buffer)
    assert len(saved) < 810_000
    loaded = pickle.loads(saved)
    for serial in range(3, 6):
        feed(loaded, [step(serial)])
    assert loaded.size() == 6 and len(sampled(loaded)) == 6
    loaded.check_valid()
