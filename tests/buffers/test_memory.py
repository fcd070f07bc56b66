"""What the buffers take, when they take it, and what they say where there is not enough; and that damage shows."""

import re
import tracemalloc

import numpy as np
import pytest
from gymnasium import spaces
from stable_baselines3.common.buffers import DictReplayBuffer, ReplayBuffer

from sb3_distrl.buffers import PrioritizedDictReplayBuffer, PrioritizedReplayBuffer
from sb3_distrl.buffers.frames import FrameStorage
from sb3_distrl.buffers.storage import WholeStorage
from tests.buffers.naive_replay import ACTIONS, CLASSES, Episodes, feed, make_buffer
from tests.buffers.stacks import Part, StackedEnvs, passed

ATARI = spaces.Box(0, 255, (4, 84, 84), np.uint8)
GB = 1e9


def atari(size=1_000_000, optimize=True, n_envs=1, **kwargs):
    return PrioritizedReplayBuffer(size, ATARI, ACTIONS, "cpu", n_envs, optimize, **kwargs)


def free(monkeypatch, size):
    monkeypatch.setattr("sb3_distrl.validation.available_memory", lambda: size)


def add(buffer, n_envs=1):
    obs = np.zeros((n_envs, 4, 84, 84), np.uint8)
    buffer.add(obs, obs, np.zeros(n_envs), np.zeros(n_envs), np.zeros(n_envs, bool), [{}] * n_envs)


@pytest.mark.parametrize("optimize", [False, True])
def test_nothing_is_taken_before_the_first_transition(optimize):
    tracemalloc.start()
    buffer = atari(optimize=optimize)
    buffer.check_memory() if optimize else None
    buffer.end_episodes()
    buffer.check_valid()
    buffer.update_priorities(np.zeros(1, int), np.ones(1))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 1e6
    assert not buffer.stored.allocated and not hasattr(buffer, "tree") and not buffer.actions.any()
    assert (buffer.size(), buffer.pos, buffer.full) == (0, 0, False)


ARRAYS = ["observations", "next_observations", "actions", "rewards", "dones", "timeouts"]


@pytest.mark.parametrize("emptied", [False, True])
@pytest.mark.parametrize("buffer_class", CLASSES)
def test_arrays_before_the_first_transition_are_as_in_sb3(buffer_class, emptied):
    """Zeros that one can look at; no memory is taken for them."""
    buffer = make_buffer(buffer_class, rows=8, n_envs=2, optimize_memory_usage=False)
    if emptied:
        feed(buffer, Episodes(2).step())
        buffer.reset()
    sb3_class = DictReplayBuffer if buffer_class is PrioritizedDictReplayBuffer else ReplayBuffer
    sb3 = sb3_class(16, buffer.observation_space, ACTIONS, "cpu", n_envs=2)
    for name in ARRAYS:
        values = (getattr(buffer, name), getattr(sb3, name))
        ours, theirs = (value if isinstance(value, dict) else {"": value} for value in values)
        assert ours.keys() == theirs.keys(), name
        for key, array in ours.items():
            assert np.array_equal(array, theirs[key]) and (array.dtype == theirs[key].dtype or name in ("dones", "timeouts"))
            if name != "dones":  # a copy, as ever
                assert array.base.nbytes <= 8
                with pytest.raises(ValueError, match="read-only"):
                    array[:] = 1


@pytest.mark.parametrize("full", [False, True])
@pytest.mark.parametrize("name", ["observations", "next_observations"])
@pytest.mark.parametrize("buffer_class", CLASSES)
def test_frames_that_are_kept_once_have_no_array(buffer_class, name, full):
    """SB3's own buffer has no next_observations then; hasattr() tells."""
    buffer = make_buffer(buffer_class, optimize_memory_usage=True)
    if full:
        feed(buffer, Episodes(1).step())
    message = rf"^There is no array of {name} with optimize_memory_usage=True, .*: use sample\(\), or optimize"
    with pytest.raises(AttributeError, match=message):
        getattr(buffer, name)
    assert not hasattr(buffer, name) and buffer.rewards.shape == buffer.dones.shape == (8, 1)


@pytest.mark.parametrize("buffer_class", CLASSES)
def test_reset_gives_the_observations_back(buffer_class):
    buffer = make_buffer(buffer_class)
    buffer.reset()
    assert not buffer.stored.allocated


def test_a_million_atari_transitions_take_7300_bytes_each():
    storage = FrameStorage(1_000_000, 1, (4, 84, 84), np.dtype(np.uint8))
    assert 84 * 84 < storage.nbytes(1_000_000) / 1e6 < 7300
    assert WholeStorage(1_000_000, 1, (4, 84, 84), np.dtype(np.uint8)).nbytes(1_000_000) / 1e6 == 2 * 4 * 84 * 84


@pytest.mark.parametrize("kind", [FrameStorage, WholeStorage])
@pytest.mark.parametrize("shape", [(4, 6, 5), (6, 5, 9), (7,), (3, 2)])
@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
def test_the_bytes_that_are_announced_are_those_that_are_taken(kind, shape, dtype):
    storage = kind(50, 3, shape, np.dtype(dtype))
    announced = storage.nbytes(50)
    storage.allocate()
    arrays = storage.arrays if kind is WholeStorage else [storage.rings.slices, storage.newest]
    assert announced == storage.nbytes(50) == sum(array.nbytes for array in arrays)


def test_a_whole_buffer_is_as_large_as_announced(monkeypatch):
    """The check is to the byte: with one less it fails."""
    buffer = make_buffer(rows=100, n_envs=2, optimize_memory_usage=False)
    arrays = 2 * 200 * 2 * 4 + 200 * (8 + 4 + 1 + 1 + 8)  # observations; action, reward, flags, mass
    free(monkeypatch, arrays)
    buffer.check_memory()
    free(monkeypatch, arrays - 1)
    with pytest.raises(ValueError, match="buffer_size=200 needs"):
        buffer.check_memory()


def test_a_buffer_that_does_not_fit_says_so_before_anything_is_taken(monkeypatch):
    free(monkeypatch, 3 * GB)
    for act in (lambda buffer: buffer.check_memory(), add):
        with pytest.raises(
            ValueError, match=r"buffer_size=1000000 needs 7\.2 GB .* only 3\.0 GB are free: use buffer_size="
        ) as error:
            act(atari())
        assert "optimize_memory_usage" not in str(error.value)
        with pytest.raises(
            ValueError, match=r"buffer_size=1000000 needs 56\.5 GB .* 3\.0 GB .* use .*, or optimize_memory_usage=True"
        ):
            act(atari(optimize=False))


@pytest.mark.parametrize("n_envs", [1, 8])
@pytest.mark.parametrize("optimize", [False, True])
def test_the_size_that_is_advised_fits(optimize, n_envs, monkeypatch):
    for size in (0.01 * GB, 3 * GB):
        free(monkeypatch, size)
        with pytest.raises(ValueError) as error:
            atari(optimize=optimize, n_envs=n_envs).check_memory()
        advised = int(re.search(r"use buffer_size=(\d+)", str(error.value))[1])
        assert advised > 0.8 * 1_000_000 * size / (7.22 * GB if optimize else 56.5 * GB)
        atari(advised, optimize, n_envs).check_memory()


def test_after_a_failure_the_buffer_can_be_used(monkeypatch):
    buffer = atari(1000)
    with monkeypatch.context() as patch:
        free(patch, 1e6)
        with pytest.raises(ValueError, match="needs"):
            add(buffer)
    assert not buffer.stored.allocated and buffer.size() == 0
    add(buffer)
    buffer.check_valid()
    assert buffer.sample(3).indices.tolist() == [0, 0, 0]


def test_a_buffer_that_was_allocated_needs_no_more(monkeypatch):
    buffer = atari(1000)
    add(buffer)
    free(monkeypatch, 0)
    buffer.check_memory()
    add(buffer)


def test_the_shift_that_shows_counts(monkeypatch):
    """Of a Dict, each part; and frames of three channels are three slices."""
    space = spaces.Dict({"a": spaces.Box(0, 255, (12, 20, 20), np.uint8), "b": spaces.Box(-1, 1, (6,), np.float32)})
    envs = StackedEnvs({"a": Part("first", 4, 3)}, 1, np.random.default_rng(0))
    stack = envs.rng.integers(256, size=(15, 20, 20)).astype(np.uint8)
    pairs = [{"a": stack[None, 3 * i : 12 + 3 * i], "b": envs.rng.random((1, 6)).astype(np.float32)} for i in range(2)]
    buffer = PrioritizedDictReplayBuffer(1000, space, ACTIONS, "cpu", 1, True)
    needed = 1.02 * 1000 * 3 * 400 + 1000 * 6 * 4
    free(monkeypatch, needed)
    buffer.check_memory()  # one cannot tell before
    with pytest.raises(ValueError, match="buffer_size=1000 needs"):
        buffer.add(*pairs, np.zeros(1), np.zeros(1), np.zeros(1, bool), [{}])
    free(monkeypatch, 1.1 * needed)
    buffer.add(*pairs, np.zeros(1), np.zeros(1), np.zeros(1, bool), [{}])


def test_observations_without_a_shape_of_their_own():
    for optimize in (False, True):
        buffer = PrioritizedReplayBuffer(4, spaces.Box(-1, 1, (), np.float32), ACTIONS, "cpu", 1, optimize)
        obs = np.zeros(1, np.float32)
        buffer.add(obs, obs + 1, np.zeros(1), np.zeros(1), np.zeros(1, bool), [{}])
        assert buffer.sample(2).next_observations.tolist() == [1.0, 1.0]


# Damage


def filled(kind="dict"):
    """10 rows of 2 environments, the last row of which is yet empty; both were reset after row 4, the second ended there."""
    parts = {"image": Part("first", 4, 1), "state": Part("flat", 1, 3)}
    envs = StackedEnvs(parts, 2, np.random.default_rng(0))
    buffer = PrioritizedDictReplayBuffer(20, envs.space(), ACTIONS, "cpu", 2, kind != "whole", alpha=0.6)
    for step in range(9):
        obs = envs.obs()
        envs.step()
        done = np.array([False, step == 4])
        buffer.add(passed(obs), passed(envs.obs()), np.zeros(2), np.zeros(2), done, [{}] * 2)
        if step == 4:
            envs.reset(np.arange(2))
    buffer.update_priorities(np.arange(18), np.linspace(0.1, 7, 18))
    return buffer


def newest(row, which, by):
    def damage(buffer):
        buffer.stored.storages["image"].newest[row, 0, which] += by

    return damage


def frame_behind_the_seam(buffer):
    buffer.stored.storages["image"].rings.slices[1, -1] += 1


def overwritten_frames(buffer):
    buffer.stored.storages["image"].heads[1] += 10


def mass(slot, value):
    return lambda buffer: buffer.tree.update(np.array([slot]), np.array([value]))


def sum_of_masses(buffer):
    buffer.tree.blocks[0, 0] += 1


def flag(name, row, env):
    def damage(buffer):
        assert getattr(buffer, name)[row, env]
        getattr(buffer, name)[row, env] = False

    return damage


def largest(buffer):
    buffer.max_priority = 6.9


DAMAGES = {
    "observation one back": (newest(2, 0, -1), "a gap"),
    "observation one ahead": (newest(2, 0, 1), "a gap"),
    "next observation one back": (newest(2, 1, -1), "a gap"),
    "next observation one ahead": (newest(2, 1, 1), "a gap"),
    "next observation far ahead": (newest(4, 1, 4), "too far after"),
    "next observation before": (newest(4, 1, -2), "before observations"),
    "never added": (newest(8, 1, 1), "never added"),
    "before the first": (newest(0, 0, -1), "never added"),
    "seam": (frame_behind_the_seam, "does not repeat its beginning"),
    "overwritten": (overwritten_frames, "environment 1 draws other transitions than it stores"),
    "mass of an empty slot": (mass(18, 1.0), "environment 0 draws other transitions than it stores"),
    "no mass of the newest": (mass(17, 0.0), "environment 1 draws"),
    "no mass of the oldest": (mass(0, 0.0), "environment 0 draws"),
    "no mass in the middle": (mass(8, 0.0), "environment 0 draws"),
    "negative mass": (mass(8, -1.0), "sum tree is broken: a mass is negative"),
    "no number": (mass(8, np.nan), "sum tree is broken: a mass is negative or not finite"),
    "sum": (sum_of_masses, "sum tree is broken: a sum"),
    "truncation": (flag("timeouts", 4, 0), "episode of environment 0 has a gap"),
    "termination": (flag("_dones", 4, 1), "episode of environment 1 has a gap"),
    "largest priority": (largest, "larger than the largest"),
    "a mass too large": (mass(3, 7.1**0.6), "larger than the largest"),
}
ALL_STORAGES = ["mass of an empty slot", "no mass of the newest", "truncation", "termination", "largest priority"]


@pytest.mark.parametrize(
    ("kind", "damage"), [*(("dict", name) for name in DAMAGES), *(("whole", name) for name in ALL_STORAGES)]
)
def test_damage_shows(kind, damage):
    buffer = filled(kind)
    buffer.check_valid()
    act, message = DAMAGES[damage]
    act(buffer)
    with pytest.raises(ValueError, match=message):
        buffer.check_valid()


def test_a_changed_observation_shows_where_observations_are_whole():
    for which in (0, 1):
        buffer = filled("whole")
        buffer.stored.storages["state"].arrays[which][2, 1, 0] += 1
        with pytest.raises(ValueError, match="episode of environment 1 has a gap"):
            buffer.check_valid()


@pytest.mark.parametrize("alpha", [0.5, 0.6, 0.7, 1.5])
def test_the_largest_of_many_priorities_is_no_damage(alpha):
    """Powers of arrays and of single numbers may differ in the last bit."""
    buffer = filled("whole")
    buffer.alpha = alpha
    rng = np.random.default_rng(0)
    buffer.update_priorities(np.arange(18), np.ones(18))
    for _ in range(1000):
        buffer.max_priority = 1.0
        buffer.update_priorities(np.arange(18), 10 ** rng.uniform(0, 12, size=18))
        buffer.check_valid()
