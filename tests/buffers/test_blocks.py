"""Blocks of transitions from other buffers: streams at different paces, foreign blocks, interrupts."""

import pickle

import numpy as np
import pytest
from gymnasium import spaces

from sb3_distrl.buffers import PrioritizedDictReplayBuffer, PrioritizedReplayBuffer
from sb3_distrl.buffers.blocks import FrameBlock
from tests.buffers.naive_replay import ACTIONS
from tests.buffers.stacks import Part, StackedEnvs, passed, received
from tests.buffers.test_interrupts import Interrupt

N_STEPS, GAMMA, ROWS = 3, 0.5, 20


class Stream:
    """The environments of one actor, whose transitions go into a buffer of their own and out as blocks."""

    def __init__(self, parts, n_envs, optimize, seed, ends=0.2):
        self.ends = ends  # probability that an episode ends after a step
        self.rng, self.n_envs = np.random.default_rng(seed), n_envs
        self.envs = StackedEnvs(parts, n_envs, self.rng)
        self.seen = {}  # next observations, by the observation
        self.whole, self.out = (self.make_buffer(parts, rows * n_envs, n_envs, optimize) for rows in (ROWS, 7))

    @staticmethod
    def make_buffer(parts, size, n_envs, optimize):
        buffer_class = PrioritizedReplayBuffer if "" in parts else PrioritizedDictReplayBuffer
        space = StackedEnvs(parts, 1, np.random.default_rng(0)).space()
        return buffer_class(size, space, ACTIONS, "cpu", n_envs, optimize, n_steps=N_STEPS, gamma=GAMMA, alpha=1.0)

    def block(self, steps, lost=False):
        """:param lost: whether it never arrives: nobody but the stream itself knows of it"""
        self.out.start_block()
        for _ in range(steps):
            obs = passed(self.envs.obs())
            self.envs.step()
            ends = self.rng.random(self.n_envs) < self.ends
            cut = self.rng.random(self.n_envs) < 0.5
            infos = [{"TimeLimit.truncated": bool(c)} if e else {} for e, c in zip(ends, cut, strict=True)]
            actions, rewards = self.rng.integers(4, size=self.n_envs), self.rng.integers(-8, 9, size=self.n_envs) / 4
            transition = obs, passed(self.envs.obs()), actions, rewards, ends, infos
            self.out.add(*transition)
            if not lost:
                self.whole.add(*transition)
            if "" in self.envs.parts:
                self.seen.update({a.tobytes(): b.tobytes() for a, b in zip(*transition[:2], strict=True)})
            self.envs.reset(np.flatnonzero(ends))
        priorities = self.rng.random((steps, self.n_envs)).astype(np.float32) + 0.1
        if not lost:
            rows = np.arange(self.whole._added[0] - steps, self.whole._added[0]) % ROWS
            slots = rows[:, None] * self.n_envs + np.arange(self.n_envs)
            self.whole.update_priorities(slots.reshape(-1), priorities.reshape(-1))
        return pickle.loads(pickle.dumps(self.out.block(priorities)))


def contents(buffer, env):
    """:return: what can be drawn of this environment, the oldest first, without its indices"""
    rows = np.arange(max(0, buffer._added[env] - ROWS), buffer._added[env]) % ROWS
    slots = rows * buffer.n_envs + env
    slots = slots[buffer.tree[slots] > 0]
    batch = buffer.transitions(slots)
    parts = [*received(batch.observations).values(), *received(batch.next_observations).values()]
    scalars = [np.asarray(getattr(batch, name)) for name in ("actions", "rewards", "dones", "discounts")]
    arrays = [*parts, *scalars, buffer.tree[slots]]
    return [tuple(array[i].tobytes() for array in arrays) for i in range(len(slots))]


IMAGE, VECTOR = Part("first", 3, 1), Part("flat", 1, 3, dtype=np.float32)
PARTS = {"stack": {"": IMAGE}, "vector": {"": VECTOR}, "dict": {"image": Part("last", 3, 1), "vector": VECTOR}}


@pytest.mark.parametrize("optimize", [True, False])
@pytest.mark.parametrize("kind", PARTS)
def test_streams_at_different_paces_hold_what_buffers_of_their_own_would(kind, optimize):
    """To the bit, priorities included, while the slower ones lag by many rounds of the rings."""
    sizes = [2, 1, 3]
    env_ids = np.split(np.arange(6), np.cumsum(sizes)[:-1])
    streams = [Stream(PARTS[kind], n, optimize, seed) for seed, n in enumerate(sizes)]
    buffer = Stream.make_buffer(PARTS[kind], ROWS * 6, 6, optimize)
    rng = np.random.default_rng(9)
    for _ in range(60):
        which = rng.choice(3, p=[0.7, 0.25, 0.05])
        block = streams[which].block(int(rng.integers(1, 8)))
        buffer.check_block(block, sizes[which])
        buffer.add_block(env_ids[which], block)
        buffer.check_valid()
        for stream, envs in zip(streams, env_ids, strict=True):
            for own, env in enumerate(envs if stream.whole._added[0] else ()):
                found, expected = contents(buffer, env), contents(stream.whole, own)
                both = min(len(found), len(expected))  # rings may lose more or fewer of the oldest
                assert found[-both:] == expected[-both:] and 3 * both >= min(stream.whole._added[0], ROWS)
    assert max(buffer._added) > 4 * ROWS and len(set(buffer._added)) == 3
    batch = buffer.sample(64)
    assert np.isfinite(batch.weights.numpy()).all() and (buffer.tree[batch.indices] > 0).all()


def test_environments_in_another_order():
    """Each goes on where it was."""
    parts = {"": Part("flat", 1, 2)}
    source = Stream(parts, 2, False, 0)
    ours, swapped = (Stream.make_buffer(parts, 2 * ROWS, 2, False) for _ in range(2))
    for _ in range(2):
        block = source.block(3)
        ours.add_block(np.array([0, 1]), block)
        swapped.add_block(np.array([1, 0]), block)
    assert np.array_equal(ours.timeouts, swapped.timeouts[:, ::-1]) and np.array_equal(ours.rewards, swapped.rewards[:, ::-1])
    swapped.check_valid()


def test_no_return_reaches_over_a_lost_block():
    """Also where the observation is by chance the one that it would have been without the loss."""
    constant = {"": Part("flat", 1, 2, values="zero", dtype=np.uint8)}
    stream = Stream(constant, 1, True, 0, ends=0)
    buffer = Stream.make_buffer(constant, ROWS, 1, True)
    buffer.add_block(np.array([0]), stream.block(2))
    stream.block(3, lost=True)
    buffer.end_episodes(np.array([0]))
    buffer.add_block(np.array([0]), stream.block(1))
    batch = buffer.transitions(np.array([0, 1, 2]))
    assert batch.discounts.flatten().tolist() == [GAMMA**2, GAMMA, GAMMA]


def test_a_block_with_more_frames_than_a_ring_holds():
    """Episodes of one step cost many frames: the oldest of the block are lost, and the newest are right."""
    stream = Stream({"": IMAGE}, 1, True, 0, ends=1)
    buffer = Stream.make_buffer({"": IMAGE}, 7, 1, True)
    buffer.add_block(np.array([0]), stream.block(7))
    buffer.check_valid()
    drawable = np.flatnonzero(buffer.tree[np.arange(7)])
    assert 0 < len(drawable) < 7 and drawable[-1] == 6
    batch = buffer.transitions(drawable)
    expected = stream.whole.transitions(drawable)
    assert batch.observations.numpy().tobytes() == expected.observations.numpy().tobytes()
    assert batch.next_observations.numpy().tobytes() == expected.next_observations.numpy().tobytes()


def changed(block, **arrays):
    return block._replace(arrays={**block.arrays, **arrays})


def test_what_is_no_block_of_the_environments_is_refused():
    stream = Stream({"": VECTOR}, 2, False, 0)
    buffer = Stream.make_buffer({"": VECTOR}, 40, 2, False)
    block = stream.block(3)
    whole = block.observations
    buffer.check_block(block, 2)
    nan = block.rewards.copy()
    nan[1, 1] = np.nan
    wrong = {
        "rewards=nan is not finite": changed(block, rewards=nan),
        "rewards of shape": changed(block, rewards=block.rewards[:, :1]),
        "actions=": changed(block, actions=block.actions + 9),
        "actions of shape": changed(block, actions=block.actions[..., 0]),
        "dones of shape": changed(block, _dones=block.dones.astype(float)),
        "priorities=inf": block._replace(priorities=block.priorities * np.inf),
        "observations=nan": block._replace(observations=whole._replace(observations=whole.observations * np.nan)),
        "observations of shape": block._replace(observations=whole._replace(next_observations=whole[1][..., :2])),
        "should have": block._replace(observations={"image": whole}),
    }
    for message, broken in wrong.items():
        with pytest.raises(ValueError, match=message):
            buffer.check_block(broken, 2)
    with pytest.raises(ValueError, match="of shape"):
        buffer.check_block(block, 3)


def test_frames_that_do_not_fit_are_refused():
    stream = Stream({"": IMAGE}, 2, True, 0)
    buffer = Stream.make_buffer({"": IMAGE}, 40, 2, True)
    block = stream.block(3)
    frames = block.observations
    assert isinstance(frames, FrameBlock)
    for message, broken in {
        "cut along axis=2": frames._replace(axis=2),
        "of 1, cut|of 1 environments": frames._replace(slices=frames.slices[:1]),
        "end with slices": frames._replace(newest=frames.newest + 50),
        "observations of shape": frames._replace(slices=[part[:, :1] for part in frames.slices]),
    }.items():
        with pytest.raises(ValueError, match=message):
            buffer.check_block(block._replace(observations=broken), 2)


def test_a_block_of_other_environments_is_not_spread_over_them():
    stream = Stream({"": VECTOR}, 1, False, 0)
    buffer = Stream.make_buffer({"": VECTOR}, 40, 2, False)
    block = stream.block(3)
    with pytest.raises(ValueError, match=r"actions of shape \(3, 1, 1\) should have shape \(3, 2, 1\)"):
        buffer.add_block(np.arange(2), block)
    with pytest.raises(ValueError, match=r"priorities of shape \(1, 3\) should have shape \(3, 1\)"):
        buffer.add_block(np.array([1]), block._replace(priorities=block.priorities.T))
    assert buffer.size() == 0


def test_blocks_must_fit_into_the_rows_of_an_environment():
    stream = Stream({"": VECTOR}, 2, False, 0)
    buffer = Stream.make_buffer({"": VECTOR}, 8, 2, False)
    with pytest.raises(ValueError, match="buffer_size=8 must be at least 10"):
        buffer.add_block(np.arange(2), stream.block(5))


@pytest.mark.parametrize("stride", [23, pytest.param(3, marks=pytest.mark.slow)])
@pytest.mark.parametrize("full", [False, True])
@pytest.mark.parametrize("optimize", [True, False])
def test_nothing_wrong_is_drawn_after_an_interrupted_extension(optimize, full, stride, monkeypatch):
    """At some lines: what can be drawn then was there before, or is a transition of the block."""
    monkeypatch.setattr("sb3_distrl.buffers.sum_tree.compiled", lambda: None)  # numpy's can be interrupted
    line, interrupted = 0, True
    while interrupted:
        streams = [Stream({"": IMAGE}, 1, optimize, seed) for seed in range(2)]
        buffer = Stream.make_buffer({"": IMAGE}, ROWS * 2, 2, optimize)
        for _ in range(4 if full else 1):
            for env, stream in enumerate(streams):
                buffer.add_block(np.array([env]), stream.block(7))
        block, before = streams[0].block(5), named(buffer, 1)
        with Interrupt(line) as interrupt:
            buffer.add_block(np.array([0]), block)
        interrupted = interrupt.seen > line
        for step in range(3):
            buffer.check_valid()
            there = named(buffer, 0)
            assert there.items() <= streams[0].seen.items()
            assert len(there) >= (ROWS - 10 if full and not optimize else 1)
            assert named(buffer, 1) == before
            buffer.add_block(np.array([0]), streams[0].block(3 + step))
        line += stride
    assert line > 60


def named(buffer, env):
    """:return: the next observations of an environment's transitions that can be drawn, by the observation"""
    rows = np.flatnonzero(buffer.tree[np.arange(ROWS) * buffer.n_envs + env])
    envs = np.full(len(rows), env)
    obs, next_obs = (buffer.stored.take(rows, envs, which) for which in (0, 1))
    return {a.tobytes(): b.tobytes() for a, b in zip(obs, next_obs, strict=True)}


def test_nbytes_counts_each_frame_once():
    space = spaces.Box(0, 255, (4, 84, 84), np.uint8)
    buffer = PrioritizedReplayBuffer(64, space, ACTIONS, "cpu", 1, True)
    buffer.start_block()
    frames = np.random.default_rng(0).integers(0, 256, (68, 84, 84)).astype(np.uint8)
    for t in range(64):
        obs, next_obs = frames[None, t : t + 4], frames[None, t + 1 : t + 5]
        buffer.add(obs, next_obs, np.zeros((1, 1)), np.zeros(1), np.zeros(1, bool), [{}])
    per_transition = buffer.block(np.ones((64, 1), np.float32)).nbytes() / 64
    assert 84 * 84 < per_transition < 1.1 * 84 * 84
