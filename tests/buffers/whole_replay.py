"""Prioritized n-step replay as a list of whole transitions, the oracle of the state machine."""

import pickle
from dataclasses import dataclass

import numpy as np

from sb3_distrl.buffers.frames import FrameStorage
from tests.buffers.naive_replay import ACTIONS
from tests.buffers.stacks import passed, received


@dataclass
class Step:
    """One transition of each environment; all arrays have shape [n_envs, ...]."""

    obs: dict[str, np.ndarray]
    next_obs: dict[str, np.ndarray]
    action: np.ndarray
    reward: np.ndarray
    terminated: np.ndarray
    truncated: np.ndarray

    def __post_init__(self):
        self.ended = self.terminated | self.truncated
        self.masses = np.zeros(len(self.ended))
        self.oldest = {}  # slice of each key's observation, counted from the first
        self.kept = np.ones(len(self.ended), dtype=bool)  # for all that the room in the rings allows


def same_bits(a, b):
    """:return: whether observations are the same to the bit, shape [n_envs]"""
    return np.array(
        [all(a[key][env].tobytes() == b[key][env].tobytes() for key in a) for env in range(len(next(iter(a.values()))))]
    )


class WholeReplay:
    """:param rows: how many steps of all environments are kept"""

    def __init__(self, rows, n_envs, n_steps, gamma, alpha, priority_eps, handle_timeouts):
        self.rows, self.n_envs, self.n_steps, self.gamma = rows, n_envs, n_steps, gamma
        self.alpha, self.priority_eps, self.handle_timeouts = alpha, priority_eps, handle_timeouts
        self.reset()

    def reset(self):
        self.steps, self.added, self.max_priority = [], 0, 1.0
        self.heads = {}

    def end_episodes(self):
        if self.steps:
            self.steps[-1].ended[:] = True

    def add(self, step, shifts, rings):
        """
        :param shifts: of each key's frame storage before the step; empty for whole observations
        :param rings: slices that fit into each one's ring, before the step or after it, the fewer
        """
        continues = np.zeros(self.n_envs, dtype=bool)
        if self.steps:
            continues = same_bits(self.steps[-1].next_obs, step.obs)
            self.steps[-1].ended |= ~continues
        step.masses[:] = self.max_priority**self.alpha
        self.steps.append(step)
        del self.steps[: -self.rows]
        self.added += 1
        for key, (axis, shift) in shifts.items():
            obs, next_obs = (np.moveaxis(some[key], axis + 1, 1) for some in (step.obs, step.next_obs))
            n_slices = obs.shape[1]
            head = self.heads.get(key, np.zeros(self.n_envs, dtype=int)) + np.where(continues, 0, n_slices)
            step.oldest[key] = head - n_slices
            fits = [next_obs[e, : n_slices - shift].tobytes() == obs[e, shift:].tobytes() for e in range(self.n_envs)]
            self.heads[key] = head + np.where(fits, shift, n_slices)  # at most
            for other in self.steps:
                other.kept &= self.heads[key] - other.oldest[key] <= rings[key]

    def slot(self, index):
        """:return: of the step at this index of ``steps`` in the first environment"""
        return (self.added - len(self.steps) + index) % self.rows * self.n_envs

    def by_slot(self):
        """:return: for each slot of the first environment: the index of its step"""
        return {self.slot(index): index for index in range(len(self.steps))}

    def update_priorities(self, indices, priorities):
        steps = self.by_slot()
        for index, priority in zip(indices.tolist(), (abs(priorities) + self.priority_eps).tolist(), strict=True):
            row, env = divmod(index, self.n_envs)
            self.steps[steps[row * self.n_envs]].masses[env] = priority**self.alpha
            self.max_priority = max(self.max_priority, priority)

    def check_drawable(self, masses, optimized):
        """
        The newest transitions have their masses, all others none.

        :param masses: of the buffer's slots
        """
        expected, drawable = np.zeros((2, len(masses)))
        for env in range(self.n_envs):
            there = [masses[self.slot(index) + env] > 0 for index in range(len(self.steps))]
            assert not optimized or there == sorted(there), "not the newest"
            for index, step in enumerate(self.steps):
                slot = self.slot(index) + env
                newest = index == len(self.steps) - 1
                assert there[index] or (optimized and not newest and not step.kept[env]), "lost"
                expected[slot], drawable[slot] = step.masses[env], there[index]
        np.testing.assert_allclose(masses, expected * drawable, rtol=1e-12, atol=0)

    def check_batch(self, batch, beta=None):
        """:param beta: exponent of the weights, where they are to be checked"""
        steps = self.by_slot()
        rows, envs = np.divmod(batch.indices, self.n_envs)
        firsts = [steps[row * self.n_envs] for row in rows.tolist()]
        lasts, returns, discounts = [], [], []
        for first, env in zip(firsts, envs.tolist(), strict=True):
            total, discount = 0.0, 1.0
            for last in range(first, min(first + self.n_steps, len(self.steps))):
                total += discount * float(self.steps[last].reward[env])
                discount *= self.gamma
                if self.steps[last].ended[env]:
                    break
            lasts.append(last), returns.append(total), discounts.append(discount)
        for name, indices in (("obs", firsts), ("next_obs", lasts)):
            found = received(batch.observations if name == "obs" else batch.next_observations)
            for key, array in found.items():
                parts = [getattr(self.steps[index], name)[key][env] for index, env in zip(indices, envs, strict=True)]
                expected = np.stack(parts).reshape(array.shape)
                assert array.dtype == expected.dtype and array.tobytes() == expected.tobytes(), (name, key)
        ends = [(self.steps[last], env) for last, env in zip(lasts, envs, strict=True)]
        dones = [step.terminated[env] or (step.truncated[env] and not self.handle_timeouts) for step, env in ends]
        assert batch.actions.flatten().tolist() == [self.steps[i].action[e] for i, e in zip(firsts, envs, strict=True)]
        assert batch.dones.flatten().tolist() == dones
        np.testing.assert_allclose(batch.rewards.flatten(), returns, rtol=1e-5, atol=1e-5)
        np.testing.assert_allclose(batch.discounts.flatten(), discounts, rtol=1e-6)
        if beta is not None:
            masses = np.array([self.steps[i].masses[e] for i, e in zip(firsts, envs, strict=True)])
            weights = masses**-beta  # N and the sum of all masses are in each and cancel
            np.testing.assert_allclose(batch.weights.flatten(), weights / weights.max(), rtol=1e-6)


def storages_of(buffer):
    """:return: of each key of a Dict, or of ''"""
    return getattr(buffer.stored, "storages", {"": buffer.stored})


def shifts_of(buffer):
    """:return: axis and slices that the next observation of each key is shifted by, once the buffer knows"""
    storages = storages_of(buffer) if buffer.stored.allocated else {}
    return {key: (some.axis, some.shift) for key, some in storages.items() if isinstance(some, FrameStorage)}


def rings_of(buffer):
    """:return: slices that the documented rings hold: of endless episodes, 2% more, and of two observations"""
    return {
        key: int(1.02 * buffer.buffer_size * shift) + 2 * storages_of(buffer)[key].shape[axis]
        for key, (axis, shift) in shifts_of(buffer).items()
    }


def add_to_both(buffer, oracle, step):
    before, rings = shifts_of(buffer), rings_of(buffer)
    obs, next_obs = passed(step.obs), passed(step.next_obs)
    done = step.terminated | step.truncated
    infos = [{"TimeLimit.truncated": bool(cut)} if end else {} for end, cut in zip(done, step.truncated, strict=True)]
    action, reward = step.action.copy(), step.reward.copy()
    buffer.add(obs, next_obs, action, reward, done, infos)
    for array in (*received(obs).values(), *received(next_obs).values(), action, reward, done):
        array.fill(1)  # the buffer keeps copies
    fewer = {key: min(size, rings.get(key, size)) for key, size in rings_of(buffer).items()}
    oracle.add(step, before or shifts_of(buffer), fewer)


def extend_both(buffer, oracle, steps):
    """The same as ``add_to_both`` for each step, but the buffer gets them as a block that another process has made."""
    before, rings = shifts_of(buffer), rings_of(buffer)
    other = type(buffer)(
        len(steps) * buffer.n_envs, buffer.observation_space, ACTIONS, "cpu", buffer.n_envs, buffer.optimize_memory_usage,
        buffer.handle_timeout_termination,
    )  # fmt: skip
    other.start_block()
    for step in steps:
        done = step.terminated | step.truncated
        infos = [{"TimeLimit.truncated": bool(cut)} if end else {} for end, cut in zip(done, step.truncated, strict=True)]
        other.add(passed(step.obs), passed(step.next_obs), step.action, step.reward, done, infos)
    block = pickle.loads(pickle.dumps(other.block()))
    buffer.check_block(block, buffer.n_envs)
    buffer.add_block(np.arange(buffer.n_envs), block)
    fewer = {key: min(size, rings.get(key, size)) for key, size in rings_of(buffer).items()}
    for step in steps:
        oracle.add(step, before or shifts_of(buffer), fewer)


def check_both(buffer, oracle):
    """Check all that can be drawn."""
    buffer.check_valid()
    assert buffer.size() == len(oracle.steps)
    masses = buffer.tree[np.arange(buffer.buffer_size * buffer.n_envs)]
    oracle.check_drawable(masses, buffer.optimize_memory_usage)
    live = np.flatnonzero(masses)
    oracle.check_batch(buffer.transitions(live))
