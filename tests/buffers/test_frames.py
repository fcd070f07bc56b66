"""Frames that are kept once: how many are added, what comes out, and what is lost first."""

import pickle
from itertools import pairwise

import numpy as np
import pytest
from gymnasium import spaces

from sb3_distrl.buffers import PrioritizedReplayBuffer
from sb3_distrl.buffers.frames import FrameStorage
from tests.buffers.naive_replay import ACTIONS
from tests.buffers.stacks import LAYOUTS, PADDINGS, Part, StackedEnvs
from tests.buffers.whole_replay import Step, WholeReplay, add_to_both, check_both

OPTIONS = dict(n_steps=3, gamma=0.9, alpha=0.5, priority_eps=1e-6)


class Pair:
    """A buffer with optimize_memory_usage, and the oracle."""

    def __init__(self, space, rows, n_envs=1, **kwargs):
        options = {**OPTIONS, **kwargs}
        self.n_envs = n_envs
        self.buffer = PrioritizedReplayBuffer(rows * n_envs, space, ACTIONS, "cpu", n_envs, True, **options)
        self.oracle = WholeReplay(rows, n_envs, handle_timeouts=True, **options)
        self.rng = np.random.default_rng(0)

    @property
    def storage(self):
        return self.buffer.stored

    def add(self, obs, next_obs, terminated=(), truncated=()):
        """
        :param obs: shape [n_envs, ...]
        :param next_obs: shape [n_envs, ...]
        :param terminated: environments
        :param truncated: environments
        """
        ends = [np.isin(np.arange(self.n_envs), envs) for envs in (terminated, truncated)]
        action, reward = self.rng.integers(4, size=self.n_envs), self.rng.integers(9, size=self.n_envs) / 4
        dtype = self.buffer.observation_space.dtype
        obs, next_obs = np.asarray(obs, dtype), np.asarray(next_obs, dtype)
        add_to_both(self.buffer, self.oracle, Step({"": obs}, {"": next_obs}, action, reward, *ends))

    def run(self, envs, steps, ends=()):
        for step in range(steps):
            obs = envs.obs()[""]
            envs.step()
            done = [env for env in range(self.n_envs) if (env, step) in ends or step in ends]
            self.add(obs, envs.obs()[""], truncated=done)
            envs.reset(np.array(done, dtype=int))

    def check(self):
        check_both(self.buffer, self.oracle)

    def live(self):
        """:return: for each environment, how many transitions can be drawn"""
        slots = np.arange(self.buffer.buffer_size * self.n_envs)
        return (self.buffer.tree[slots] > 0).reshape(-1, self.n_envs).sum(axis=0).tolist()


def images(shape=(4, 2, 3), rows=8, **kwargs):
    return Pair(spaces.Box(0, 255, shape, np.uint8), rows, **kwargs)


def vectors(size, rows=8, **kwargs):
    return Pair(spaces.Box(-1e9, 1e9, (size,), np.float32), rows, **kwargs)


# How much is added


@pytest.mark.parametrize(("padding", "dtype"), [(PADDINGS[0], np.float32), *((padding, np.uint8) for padding in PADDINGS)])
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize(("frames", "channels"), [(4, 1), (3, 3), (1, 2), (2, 1)])
def test_each_step_adds_one_frame_and_each_episode_one_stack(dtype, frames, channels, layout, padding):
    part = Part(layout, frames, channels, padding, dtype)
    envs = StackedEnvs({"": part}, 2, np.random.default_rng(1))
    pair = Pair(envs.space(), 30, 2)
    for step in range(50):
        before = pair.storage.heads.copy() if step else np.zeros(2)
        pair.run(envs, 1, ends=[(1, 0)] if step in (4, 5, 20) else [])
        starts = np.array([step == 0, step in (0, 5, 6, 21)])
        assert (pair.storage.heads - before == part.shift + starts * part.n_slices).all(), step
    assert pair.live() == [30, 30]
    pair.check()


@pytest.mark.parametrize("layout", LAYOUTS)
def test_endless_episodes_fill_all_rows(layout):
    envs = StackedEnvs({"": Part(layout, 4, 3)}, 2, np.random.default_rng(1))
    pair = Pair(envs.space(), 60, 2)
    for _ in range(10):
        pair.run(envs, 23)
        pair.check()
    assert pair.live() == [60, 60]


def test_what_is_no_stack_is_kept_once_for_two_transitions():
    pair = vectors(6, rows=20)
    rng = np.random.default_rng(0)
    obs = rng.normal(size=(101, 1, 6))
    for step in range(100):
        pair.add(obs[step], obs[step + 1])
    assert pair.storage.heads.tolist() == [6 + 100 * 6]
    assert pair.live() == [20]
    pair.check()


def test_an_observation_that_stays_the_same_is_kept_once():
    pair = images((4, 5, 6), rows=40)
    obs = np.random.default_rng(0).integers(256, size=(1, 4, 5, 6))
    for step in range(300):
        pair.add(obs, obs, truncated=[0] if step % 50 == 0 else [])
    assert pair.storage.heads.tolist() == [4]
    pair.check()
    for _ in range(150):  # and now it moves
        following = np.concatenate([obs[:, 1:], pair.rng.integers(256, size=(1, 1, 5, 6))], axis=1)
        pair.add(obs, following)
        obs = following
        pair.check()
    for _ in range(60):
        pair.add(obs, obs)
    pair.check()


# What comes out


@pytest.mark.parametrize("how", ["terminated", "truncated"])
def test_the_true_final_observation_comes_out(how):
    pair = images()
    frames = np.arange(1, 1 + 6 * 9).reshape(9, 2, 3)
    pair.add(frames[None, 0:4], frames[None, 1:5])
    pair.add(frames[None, 1:5], frames[None, 2:6], **{how: [0]})
    start = np.stack([0 * frames[0], 0 * frames[0], 0 * frames[0], frames[7]])[None]
    pair.add(start, np.concatenate([start[:, 1:], frames[None, 8:9]], axis=1))
    batch = pair.buffer.transitions(np.arange(3))
    assert batch.next_observations[:2].tolist() == [frames[2:6].tolist()] * 2
    assert batch.observations[2].tolist() == start[0].tolist()
    assert batch.dones.flatten().tolist() == [how == "terminated"] * 2 + [0.0]
    pair.check()


def test_zero_and_minus_zero_are_not_the_same():
    pair = vectors(2)
    pair.add([[0.0, 1.0]], [[1.0, 0.0]])
    pair.add([[1.0, -0.0]], [[-0.0, 0.0]])  # a new episode
    pair.add([[-0.0, 0.0]], [[0.0, -0.0]])
    pair.add([[0.0, -0.0]], [[-0.0, -0.0]])
    assert pair.buffer.timeouts[:4, 0].tolist() == [True, False, False, False]
    batch = pair.buffer.transitions(np.arange(4))
    assert np.signbit(batch.observations.numpy()).tolist() == [[False, False], [False, True], [True, False], [False, True]]
    pair.check()


@pytest.mark.parametrize("steps", [3, 150])
def test_a_stack_that_is_broken_in_an_episode_comes_out(steps):
    """Early, and when the shift is known for long."""
    pair = images((4, 5, 6), rows=20, n_envs=2)
    frames = pair.rng.integers(256, size=(steps + 30, 2, 5, 6))
    stacks = [frames[t : t + 4].swapaxes(0, 1) for t in range(steps)]
    stacks += [frames[t : t + 4].swapaxes(0, 1) for t in range(steps + 10, steps + 20)]
    for obs, next_obs in pairwise(stacks):
        pair.add(obs, next_obs)
        pair.check()
    assert pair.storage.heads.tolist() == [4 + (len(stacks) - 2) + 4] * 2


def test_frames_are_counted_in_64_bits():
    pair = images()
    pair.run(StackedEnvs({"": Part()}, 1, np.random.default_rng(0)), 2)
    assert pair.storage.heads.dtype == pair.storage.newest.dtype == np.int64


def test_a_full_ring_is_loaded_as_it_was():
    """Its seam, too."""
    for steps in range(9, 40):
        pair = images(rows=8, n_envs=2)
        pair.run(StackedEnvs({"": Part()}, 2, np.random.default_rng(0)), steps, ends=[(1, 7)])
        rings = pair.storage.rings.slices.copy()
        pair.buffer = pickle.loads(pickle.dumps(pair.buffer))
        assert np.array_equal(pair.storage.rings.slices, rings)
        pair.oracle.end_episodes()
        pair.check()


def test_a_sample_is_a_copy_of_the_frames():
    pair = images()
    pair.run(StackedEnvs({"": Part()}, 1, np.random.default_rng(0)), 5)
    batch = pair.buffer.sample(20)
    batch.observations.fill_(7), batch.next_observations.fill_(7)
    pair.check()


# What is lost first


def test_short_episodes_lose_the_oldest_transitions():
    """Episodes of one step cost 5 slices here: of 59 in the ring, 11 times as many. The other environment loses none."""
    pair = images(rows=50, n_envs=2)
    envs = StackedEnvs({"": Part()}, 2, np.random.default_rng(0))
    for step in range(180):
        pair.run(envs, 1, ends=[(0, 0)])
        pair.check()
        assert pair.live() == [min(step + 1, 11), min(step + 1, 50)]
    newest = (180 - 1 - np.arange(11)) % 50
    for _ in range(20):
        rows, env = np.divmod(pair.buffer.sample(200).indices, 2)
        assert set(rows[env == 0]) == set(newest)
        assert set(rows[env == 1]) == set(range(50))


def test_an_emptied_buffer_loses_the_oldest_again():
    pair = images(rows=50, n_envs=2)
    envs = StackedEnvs({"": Part()}, 2, np.random.default_rng(0))
    for _ in range(3):
        pair.run(envs, 130, ends=[(0, step) for step in range(130)])
        pair.check()
        assert pair.live() == [11, 50]
        pair.buffer.reset(), pair.oracle.reset()
    for step in range(30):
        pair.run(envs, 1, ends=[(0, 0)])
        pair.check()
        assert pair.live() == [min(step + 1, 11), step + 1]


def test_priorities_of_lost_transitions_are_not_updated():
    pair = images(rows=50)
    pair.run(StackedEnvs({"": Part()}, 1, np.random.default_rng(0)), 40, ends=range(40))
    lost = np.flatnonzero(pair.buffer.tree[np.arange(50)] == 0)
    assert len(lost) == 39
    pair.buffer.update_priorities(lost, np.full(39, 5.0))
    assert not pair.buffer.tree[lost].any()
    pair.buffer.check_valid()


@pytest.mark.parametrize("rows", [1, 2, 3])
@pytest.mark.parametrize("frames", [1, 4])
def test_the_newest_transition_is_always_there(rows, frames):
    """Even in rings of the smallest size, and where nothing that comes in shares frames with anything."""
    pair = images((frames, 3, 2), rows, n_envs=2)
    for _ in range(40):
        pair.add(*pair.rng.integers(256, size=(2, 2, frames, 3, 2)))
        pair.check()
        assert min(pair.live()) >= 1


# The shift that is learned


@pytest.mark.parametrize("layout", ["first", "last"])
@pytest.mark.parametrize("black", [1, 7, 250])
def test_black_first_frames_hide_neither_axis_nor_shift_for_long(black, layout):
    """Of black frames nobody can tell by how many slices they shift; with the first others the rings are made anew."""
    part = Part(layout, 4, 3)
    envs = StackedEnvs({"": part}, 2, np.random.default_rng(0))
    pair = Pair(envs.space(), 30, 2)
    dark = np.zeros_like(envs.obs()[""])
    for _ in range(black):
        pair.add(dark, dark)
    pair.check()
    envs.stacks[""][:] = 0
    for _ in range(60):
        pair.run(envs, 1)
        pair.check()
    assert pair.live() == [30, 30]
    if min(dark.shape[1:]) == dark.shape[1 if layout == "first" else -1]:
        assert (pair.storage.shift, pair.storage.n_slices) == (3, 12)


def test_black_first_frames_of_a_large_image():
    """The stack is on the shorter axis."""
    frames = np.random.default_rng(0).integers(256, size=(60, 3, 20, 20))
    frames[:8] = 0
    for axis in (1, 3):
        stacks = [np.concatenate(frames[t : t + 4])[None] for t in range(50)]
        stacks = [np.moveaxis(stack, 1, axis) for stack in stacks]
        pair = images(stacks[0].shape[1:], rows=30)
        for obs, next_obs in pairwise(stacks):
            pair.add(obs, next_obs)
            pair.check()
        assert (pair.storage.axis, pair.storage.shift) == (axis - 1, 3)
        assert pair.storage.rings.slices.shape[1] == int(1.02 * 30 * 3) + 2 * 12 + 11
        assert pair.live() == [30]


def test_a_ring_that_grows_forgets_what_was_overwritten():
    """The step that shows the larger shift overwrites frames in the smaller ring, first."""
    pair = vectors(4, rows=10)
    for number in range(12):
        pair.add([[10 * number, 1, 2, 3]], [[10 * number, 1, 2, 3]], terminated=[0])
        pair.check()
    pair.add([[500, 501, 502, 503]], [[600, 601, 602, 603]])
    pair.check()


def test_a_ring_that_shrinks_keeps_the_newest():
    """Nothing shared at first, then stacks."""
    pair = vectors(4, rows=30)
    for number in range(25):
        pair.add(4 * number + np.arange(4)[None], 4 * number + np.arange(4, 8)[None])
        pair.check()
    assert pair.storage.shift == 4 and pair.live() == [25]
    for number in range(60):
        pair.add(1000 + number + np.arange(4)[None], 1001 + number + np.arange(4)[None])
        pair.check()
    assert pair.storage.shift == 1 and pair.live() == [30]
    assert pair.storage.rings.slices.shape[1] == 30 + 2 * 4 + 3


def test_the_axis_by_hand():
    """Where a shift shows, there; else the shorter one."""
    stack = np.arange(2 * 6 * 3).reshape(2, 6, 3)
    for obs, next_obs, expected in [
        (stack[:, :5], stack[:, 1:], (0, 1)),
        (stack[:, :4], stack[:, 2:], (0, 2)),
        (stack, stack[:, :, [1, 2, 0]], (1, 1)),
        (stack, stack + 100, (1, 3)),
        (stack, stack, (1, 1)),
        (stack[:, :2], stack[:, :2] + 100, (0, 2)),
    ]:
        storage = FrameStorage(10, 2, obs.shape[1:], obs.dtype)
        slices = storage.prepared(obs, next_obs)
        assert (storage.axis, storage.shift) == expected
        assert all(part.shape[1] == storage.n_slices == obs.shape[1 + storage.axis] for part in slices)


# Beside SB3


@pytest.mark.parametrize("ended", ["terminated", "truncated", "not"])
def test_sb3_marks_the_last_transition_done_and_is_corrected(ended):
    """Its learn() does so with optimize_memory_usage, though the episode goes on, or was truncated."""
    pair = images(rows=3, n_envs=2)
    envs = StackedEnvs({"": Part()}, 2, np.random.default_rng(0))
    for step in range(10):
        obs = envs.obs()[""]
        envs.step()
        pair.add(obs, envs.obs()[""], **({ended: [1]} if ended != "not" and step % 2 else {}))
        if step % 2 and ended != "not":
            envs.reset(np.array([1]))
        pair.check()
        pair.buffer.dones[pair.buffer.pos - 1] = True
