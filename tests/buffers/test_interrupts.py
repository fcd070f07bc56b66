"""
Ctrl-C at each line of ``add``: whatever comes after, nothing is sampled that was not there.

SB3's users do stop ``learn()``, and then save, go on, or train on what is in the buffer.
"""

import os
import pickle
import sys

import numpy as np
import pytest
from gymnasium import spaces

from sb3_distrl.buffers import PrioritizedDictReplayBuffer, PrioritizedReplayBuffer
from sb3_distrl.buffers.transitions import RepairOnError
from tests.buffers.naive_replay import ACTIONS
from tests.buffers.stacks import received

N_ENVS, N_STEPS, GAMMA, FRAMES, ROWS = 2, 3, 0.5, 3, 4
ARRAY = spaces.Box(-1, 1e6, (FRAMES,), np.float32)
# The middle part stays as it is, so that it goes on whatever happens to the others
DICT = spaces.Dict({"before": ARRAY, "constant": spaces.Discrete(3), "stack": ARRAY})


class Interrupt:
    """Raises KeyboardInterrupt before the given line that is run in sb3_distrl/buffers, counted from 0."""

    def __init__(self, line):
        self.line, self.seen = line, 0

    def __enter__(self):
        self.before = sys.gettrace()
        sys.settrace(self.enter_frame)
        return self

    def __exit__(self, kind, *_):
        sys.settrace(self.before)
        return kind is KeyboardInterrupt

    def enter_frame(self, frame, event, argument):
        return self.trace if "sb3_distrl/buffers" in frame.f_code.co_filename.replace("\\", "/") else None

    def trace(self, frame, event, argument):
        if event == "line":
            self.seen += 1
            if self.seen == self.line + 1:
                self.where = f"{os.path.basename(frame.f_code.co_filename)}:{frame.f_lineno}"
                raise KeyboardInterrupt
        return self.trace


class Stream:
    """
    Transitions whose observations name them: stacks of the last serial numbers, which no other one has.

    :param kind: ``stack``, ``dict``, ``whole`` (which is not optimised), or what makes the rings anew: ``shrinks``, where
        what comes in is a stack only from some step on, and ``grows``, where it is none any more
    :param ends: steps that end the episode, by number: terminations if even, else truncations
    :param change: the number of that step
    """

    def __init__(self, kind, ends=(), change=0):
        self.kind, self.ends, self.change = kind, ends, change
        self.transitions, self.serial = {}, 0  # by environment and serial of the observation
        buffer_class, space = (PrioritizedDictReplayBuffer, DICT) if kind == "dict" else (PrioritizedReplayBuffer, ARRAY)
        self.buffer = buffer_class(
            ROWS * N_ENVS, space, ACTIONS, "cpu", N_ENVS, kind != "whole", n_steps=N_STEPS, gamma=GAMMA, alpha=1.0
        )
        self.reset()

    def reset(self):
        self.serial += 100
        self.stack = np.arange(self.serial - FRAMES + 1, self.serial + 1)

    def obs(self):
        stacks = np.stack([self.stack + 10_000 * env for env in range(N_ENVS)]).astype(np.float32)
        if self.kind == "dict":
            return {"before": stacks[:, ::-1].copy(), "constant": np.ones((N_ENVS, 1), int), "stack": stacks}
        return stacks

    def step(self):
        """:return: the arguments of ``add``"""
        obs, first = self.obs(), self.serial
        number = len(self.transitions) // N_ENVS
        if self.kind in ("shrinks", "grows") and (self.kind == "grows") == (number >= self.change):
            self.serial += FRAMES
            self.stack = np.arange(self.serial - FRAMES + 1, self.serial + 1)
        else:
            self.serial += 1
            self.stack = np.append(self.stack[1:], self.serial)
        end, terminated = number in self.ends, number % 2 == 0
        reward = np.full(N_ENVS, float(first))
        next_obs = self.obs()
        for env in range(N_ENVS):
            transition = (float(first), self.name(next_obs, env), end, float(end and terminated))
            self.transitions[self.name(obs, env)] = transition
        infos = [{"TimeLimit.truncated": not terminated} if end else {}] * N_ENVS
        if end:
            self.reset()
        return obs, next_obs, np.zeros((N_ENVS, 1)), reward, np.full(N_ENVS, end), infos

    def name(self, obs, env):
        return tuple((key, tuple(array[env].flatten().tolist())) for key, array in received(obs).items())

    def allowed(self, name):
        """:return: what may come with this observation: return, discount, next observation, done, for 1 to n steps"""
        allowed, total, discount, ended = [], 0.0, 1.0, False
        while name in self.transitions and not ended and len(allowed) < N_STEPS:
            reward, name, ended, done = self.transitions[name]
            total, discount = total + discount * reward, discount * GAMMA
            allowed.append((total, discount, name, done))
        return allowed

    def check(self, buffer):
        """All that can be drawn is one of the transitions, with as many steps as there may be."""
        if not buffer.stored.allocated:
            return 0
        try:
            drawn = buffer.sample(8 * N_ENVS * ROWS).indices
        except (ValueError, AssertionError) as error:  # what was interrupted has overwritten all that was there
            assert "empty" in str(error)
            drawn = []
        live = np.union1d(np.flatnonzero(buffer.tree[np.arange(ROWS * N_ENVS)]), drawn)
        batch = buffer.transitions(live.astype(int))
        for i in range(len(live)):
            name, next_name = self.name(batch.observations, i), self.name(batch.next_observations, i)
            found = (batch.rewards[i].item(), batch.discounts[i].item(), next_name, batch.dones[i].item())
            assert found in self.allowed(name), (live[i], name, found)
        return len(live)


SCENARIOS = {
    "first": (0, ()),
    "second": (1, ()),
    "third": (2, ()),
    "full": (ROWS + 2, ()),
    "seam": (ROWS - 1, ()),
    "end": (ROWS + 2, (ROWS + 2,)),  # the interrupted step is a termination
    "cut": (ROWS + 1, (ROWS + 1,)),  # or a truncation
    "after an end": (ROWS + 2, (ROWS + 1,)),
    "short episodes": (3 * ROWS, range(3 * ROWS + 3)),
}


def interrupt_repairs(buffer):
    """Interrupt the repair twice: near its beginning, and near its end."""
    left = ["_masses", "_evict"]

    def interrupted(name, method):
        def call():
            if sys.exc_info()[0] is KeyboardInterrupt and name in left:
                left.remove(name)
                raise KeyboardInterrupt
            return method()

        return call

    for name in list(left):
        setattr(buffer, name, interrupted(name, getattr(buffer, name)))


def all_interrupts(monkeypatch, kind, scenario, start, stride, in_repairs=False):
    """
    :param start: number of the first line that is tried
    :param stride: how many lines on the next one is
    :param in_repairs: whether the repairs are interrupted as well
    :return: for each line of ``add``: its number, a stream that was interrupted there, and the arguments of that call
    """
    monkeypatch.setattr("sb3_distrl.buffers.sum_tree.compiled", lambda: None)  # numpy's can be interrupted
    steps, ends = SCENARIOS[scenario]
    line, interrupted = start, True
    while interrupted:
        stream = Stream(kind, ends, change=steps // 2)
        for _ in range(steps):
            stream.buffer.add(*stream.step())
        arguments = stream.step()
        if in_repairs:
            interrupt_repairs(stream.buffer)
        with Interrupt(line) as interrupt:
            stream.buffer.add(*arguments)
        interrupted = interrupt.seen > line
        if interrupted:
            stream.where = interrupt.where
            yield line, stream, arguments
        line += stride
    assert line > 40


def go_on(stream, arguments, way):
    """
    :param arguments: of the interrupted call
    :param way: the same step comes ``again``; the episode goes ``on``; a ``reset``, of which the buffer may be ``told``; or
        it was ``saved`` and loaded first
    """
    stream.check(stream.buffer)
    if way == "told":
        stream.buffer.end_episodes()
    if way in ("told", "reset"):
        stream.reset()
    if way == "saved":
        stream.buffer = pickle.loads(pickle.dumps(stream.buffer))
        stream.check(stream.buffer)
    buffer = stream.buffer
    for step in range(ROWS + 2):
        buffer.add(*(arguments if way == "again" and step == 0 else stream.step()))
        assert stream.check(buffer) >= N_ENVS
        buffer.check_valid()
    assert stream.kind != "whole" or stream.check(buffer) == ROWS * N_ENVS


def test_a_second_interrupt_starts_the_repair_again(monkeypatch):
    """Whoever holds Ctrl-C down interrupts the repair, too."""
    for kind in ("stack", "dict", "whole"):
        for line, stream, arguments in all_interrupts(monkeypatch, kind, "full", 0, 5, in_repairs=True):
            go_on(stream, arguments, WAYS[line % 4])


def test_a_repair_that_a_signal_ends_is_repeated():
    """A handler of SIGTERM raises SystemExit, which is raised again afterwards."""
    calls = []

    def repair():
        calls.append(None)
        if len(calls) == 1:
            raise SystemExit(143)

    with pytest.raises(SystemExit, match="143"), RepairOnError(repair):
        raise KeyboardInterrupt
    assert len(calls) == 2


def test_interrupted_priorities(monkeypatch):
    """Each has its old or its new one, and all sums are right."""
    monkeypatch.setattr("sb3_distrl.buffers.sum_tree.compiled", lambda: None)
    line, interrupted = 0, True
    while interrupted:
        stream = Stream("stack")
        for _ in range(ROWS):
            stream.buffer.add(*stream.step())
        indices = np.arange(ROWS * N_ENVS)
        before, new = stream.buffer.tree[indices], np.linspace(2.0, 3.0, len(indices))
        with Interrupt(line) as interrupt:
            stream.buffer.update_priorities(indices, new)
        interrupted = interrupt.seen > line
        masses = stream.buffer.tree[indices]
        assert np.all((masses == before) | np.isclose(masses, new, rtol=1e-5))
        stream.buffer.check_valid()
        line += 1
    assert line > 10


WAYS = ["again", "on", "reset", "told", "saved"]


@pytest.mark.parametrize("stride", [29, pytest.param(3, marks=pytest.mark.slow)])
@pytest.mark.parametrize("scenario", SCENARIOS)
@pytest.mark.parametrize("kind", ["stack", "dict", "whole", "shrinks", "grows"])
def test_nothing_wrong_is_sampled_after_an_interrupt(kind, scenario, stride, monkeypatch):
    """
    Neither right after it nor later. Some lines are tried, other ones in each scenario, with another way to go on.

    With REPLAY_EXAMPLES, all lines go on in all ways.
    """
    number, failures = list(SCENARIOS).index(scenario), []
    start, stride, ways = (0, 1, WAYS) if "REPLAY_EXAMPLES" in os.environ else (number % stride, stride, [None])
    for way in ways:
        for line, stream, arguments in all_interrupts(monkeypatch, kind, scenario, start, stride):
            chosen = way or WAYS[(line + number) % len(WAYS)]
            try:
                go_on(stream, arguments, chosen)
            except (AssertionError, ValueError) as error:
                failures.append((stream.where, chosen, str(error)[:80]))
    assert failures == []
