"""
Random uses of the buffers against a list of whole transitions, with frames that are often the same by accident.

REPLAY_EXAMPLES sets how many, 100 and 900 unless told; with it, they are other ones each time.
"""

import os
import pickle

import numpy as np
import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from stable_baselines3.common.buffers import DictReplayBuffer

from sb3_distrl.buffers import PrioritizedDictReplayBuffer, PrioritizedReplayBuffer
from tests.buffers.naive_replay import ACTIONS
from tests.buffers.stacks import LAYOUTS, PADDINGS, VALUES, Part, StackedEnvs
from tests.buffers.whole_replay import Step, WholeReplay, add_to_both, check_both, extend_both

EXAMPLES = os.environ.get("REPLAY_EXAMPLES")
SEEDS = st.integers(0, 2**32 - 1)
DTYPES = st.sampled_from(list(VALUES))
PADDING = st.sampled_from(PADDINGS)
KINDS_OF_VALUES = st.sampled_from(["few", "zero", "many"])


def stacks(*layouts):
    return st.builds(Part, st.sampled_from(layouts), st.integers(1, 4), st.integers(1, 3), PADDING, DTYPES, KINDS_OF_VALUES)


NO_STACK = st.builds(Part, st.just("flat"), st.just(1), st.integers(1, 3), PADDING, DTYPES, KINDS_OF_VALUES)
IMAGES, VECTORS = stacks("first", "last"), stacks("flat", "axis")
DICTS = st.fixed_dictionaries({"image": IMAGES, "vector": VECTORS, "state": NO_STACK})
ARRAYS = st.fixed_dictionaries({"": stacks(*LAYOUTS)})


class Replay(RuleBasedStateMachine):
    """A buffer and the oracle, fed with the same."""

    @initialize(
        parts=st.one_of(ARRAYS, ARRAYS, DICTS),
        size=st.one_of(st.integers(5, 40), st.integers(5, 500)),
        n_envs=st.integers(1, 5),
        n_steps=st.integers(1, 7),
        optimize=st.sampled_from([True, True, False]),
        alpha=st.sampled_from([0.5, 0.0, 0.6, 1.0]),
        handle_timeouts=st.booleans(),
        in_blocks=st.booleans(),
        seed=SEEDS,
    )
    def start(self, parts, size, n_envs, n_steps, optimize, alpha, handle_timeouts, in_blocks, seed):
        self.rng = np.random.default_rng(seed)
        np.random.seed(seed)
        self.envs, self.n_envs, self.optimize = StackedEnvs(parts, n_envs, self.rng), n_envs, optimize
        buffer_class = PrioritizedReplayBuffer if "" in parts else PrioritizedDictReplayBuffer
        options = dict(n_steps=n_steps, gamma=0.9, alpha=alpha, priority_eps=1e-6)
        space = self.envs.space()
        self.buffer = buffer_class(size, space, ACTIONS, "cpu", n_envs, optimize, handle_timeouts, **options)
        assert isinstance(self.buffer, DictReplayBuffer) == ("" not in parts)
        self.oracle = WholeReplay(size // n_envs, n_envs, handle_timeouts=handle_timeouts, **options)
        self.left = np.zeros(n_envs, dtype=int)  # steps of the episode
        self.batch = None
        self.in_blocks = in_blocks  # of several steps, from another buffer

    @rule(
        steps=st.integers(1, 40),
        longest=st.sampled_from([200, 20, 5, 2, 1]),
        truncated=st.sampled_from([0.0, 0.5, 1.0]),
        frozen=st.sampled_from([0.0, 0.0, 0.3, 1.0]),
        broken=st.sampled_from([0.0, 0.0, 0.0, 0.2, 1.0]),
    )
    def run(self, steps, longest, truncated, frozen, broken):
        """Episodes of up to ``longest`` steps, of which ``truncated`` is the share that is truncated."""
        done = []
        for _ in range(steps):
            new = self.left <= 0
            self.left[new] = self.rng.integers(1, longest + 1, size=self.n_envs)[new]
            self.left -= 1
            ends, cut = self.left == 0, self.rng.random(self.n_envs) < truncated
            obs = self.envs.obs()
            self.envs.step(frozen, broken)
            action, reward = self.rng.integers(4, size=self.n_envs), self.rng.integers(-9, 10, size=self.n_envs) / 4
            step = Step(obs, self.envs.obs(), action, reward, ends & ~cut, ends & cut)
            done.append(step)
            self.envs.reset(np.flatnonzero(ends))
        if self.in_blocks:
            for first in range(0, steps, self.buffer.buffer_size):
                extend_both(self.buffer, self.oracle, done[first : first + self.buffer.buffer_size])
        else:
            for step in done:
                add_to_both(self.buffer, self.oracle, step)

    @rule(told=st.booleans(), which=st.sampled_from(["all", "one"]), meddle=st.booleans())
    def learn_again(self, told, which, meddle):
        """The environments are reset, and the buffer may be told of it."""
        if told:
            self.buffer.end_episodes()
            self.oracle.end_episodes()
        self.envs.reset(np.arange(self.n_envs if which == "all" else 1))
        if meddle and self.oracle.steps:
            self.buffer.dones[self.buffer.pos - 1] = True  # as SB3's learn() does with optimize_memory_usage
            self.run(1, 20, 0.5, 0.0, 0.0)

    @rule(size=st.integers(1, 60), beta=st.sampled_from([0.0, 0.4, 1.0]))
    @precondition(lambda self: self.oracle.steps)
    def sample(self, size, beta):
        self.batch = self.buffer.sample(size, beta=beta)
        self.oracle.check_batch(self.batch, beta)

    @rule(scale=st.sampled_from([(0, 0), (-1, 1), (-12, 12), (6, 12), (-9, -6)]))
    @precondition(lambda self: self.batch is not None)
    def update_priorities(self, scale):
        indices = self.batch.indices
        priorities = 10 ** self.rng.uniform(*scale, size=len(indices)) * self.rng.choice([-1, 0, 1, 1, 1], size=len(indices))
        live = self.buffer.tree[indices] > 0 if self.buffer.stored.allocated else np.zeros(len(indices), dtype=bool)
        self.buffer.update_priorities(indices, priorities)
        self.oracle.max_priority = max(self.oracle.max_priority, float(abs(priorities).max()) + 1e-6)
        self.oracle.update_priorities(indices[live], priorities[live])

    @rule()
    def save_and_load(self):
        saved = pickle.dumps(self.buffer)
        assert pickle.dumps(self.buffer) == saved  # saving changes nothing
        self.buffer = pickle.loads(saved)
        self.oracle.end_episodes()

    @rule()
    @precondition(lambda self: self.oracle.added > 20)
    def empty(self):
        self.buffer.reset()
        self.oracle.reset()
        assert not self.buffer.stored.allocated and self.buffer.size() == 0

    @invariant()
    @precondition(lambda self: self.oracle.steps)
    def holds_what_came_in(self):
        check_both(self.buffer, self.oracle)

    def teardown(self):
        if self.oracle.steps:
            self.sample(40, 0.4)


class ReplayForLonger(Replay):
    """The same, with other examples."""


def examples(number):
    return settings(
        max_examples=int(EXAMPLES or number),
        stateful_step_count=12,
        deadline=None,
        derandomize=EXAMPLES is None,
        database=None,
        suppress_health_check=list(HealthCheck),
    )


TestReplay = Replay.TestCase
TestReplay.settings = examples(100)
TestReplayForLonger = pytest.mark.slow(ReplayForLonger.TestCase)
TestReplayForLonger.settings = examples(900)
