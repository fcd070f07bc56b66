"""A stream of random episodes, and a replay buffer as plain lists of whole transitions: the oracle of the tests."""

from dataclasses import dataclass

import numpy as np
from gymnasium import spaces

from sb3_distrl.buffers import PrioritizedDictReplayBuffer, PrioritizedReplayBuffer

CLASSES = [PrioritizedReplayBuffer, PrioritizedDictReplayBuffer]
ACTIONS = spaces.Discrete(4)
ARRAY_SPACE = spaces.Box(-1, 1e6, (2,), np.float32)
DICT_SPACE = spaces.Dict({"env": spaces.Discrete(9), "serial": spaces.Box(-1, 1e6, (1, 1), np.float32)})


@dataclass
class Transition:
    obs: tuple[int, int]  # (environment, serial number of the observation)
    action: int
    reward: float
    next_obs: tuple[int, int]
    terminated: bool = False
    truncated: bool = False
    interrupted: bool = False  # the environment was reset after it without a word


OPTIONS = {}  # of all buffers, see the fixture in conftest.py


def make_buffer(buffer_class=PrioritizedReplayBuffer, rows=8, n_envs=1, **kwargs):
    kwargs = {**OPTIONS, **kwargs}
    space = DICT_SPACE if issubclass(buffer_class, PrioritizedDictReplayBuffer) else ARRAY_SPACE
    return buffer_class(rows * n_envs, space, ACTIONS, device="cpu", n_envs=n_envs, **kwargs)


def encode(observations, as_dict):
    """:param observations: (environment, serial) of each environment"""
    array = np.array(observations)
    if as_dict:
        return {"env": array[:, 0], "serial": array[:, 1].reshape(-1, 1, 1).astype(np.float32)}
    return array.astype(np.float32)


def decode(observations):
    """:return: list of (environment, serial) of a sampled batch"""
    if isinstance(observations, dict):
        assert observations["env"].shape[1:] == (1,) and observations["serial"].shape[1:] == (1, 1)
        columns = [observations[key].flatten().tolist() for key in ("env", "serial")]
        return [(int(env), int(serial)) for env, serial in zip(*columns, strict=True)]
    return [(int(env), int(serial)) for env, serial in observations.tolist()]


def feed(buffer, transitions):
    """Add one transition of each environment."""
    as_dict = isinstance(buffer, PrioritizedDictReplayBuffer)
    buffer.add(
        encode([t.obs for t in transitions], as_dict),
        encode([t.next_obs for t in transitions], as_dict),
        np.array([t.action for t in transitions]),
        np.array([t.reward for t in transitions], dtype=np.float32),
        np.array([t.terminated or t.truncated for t in transitions]),
        [{"TimeLimit.truncated": t.truncated} if t.terminated or t.truncated else {} for t in transitions],
    )


class Episodes:
    """Random episodes in several environments; no observation comes twice, but as the end of a step and begin of the next."""

    def __init__(self, n_envs, seed=0, termination=0.12, truncation=0.12):
        self.rng = np.random.default_rng(seed)
        self.termination, self.truncation = termination, truncation
        self.serial = 0
        self.obs = [self.new_observation(env) for env in range(n_envs)]

    def new_observation(self, env):
        self.serial += 1
        return env, self.serial

    def reset(self, env):
        self.obs[env] = self.new_observation(env)

    def step(self):
        transitions = []
        for env, obs in enumerate(self.obs):
            action, reward = int(self.rng.integers(4)), float(self.rng.integers(-12, 13)) / 4
            next_obs, u = self.new_observation(env), self.rng.random()
            terminated, truncated = u < self.termination, self.termination <= u < self.termination + self.truncation
            transitions.append(Transition(obs, action, reward, next_obs, terminated, truncated))
            self.obs[env] = next_obs
            if terminated or truncated:
                self.reset(env)
        return transitions


class NaiveReplay:
    """The last ``rows`` transitions of each environment, in a list of its own."""

    def __init__(self, rows, n_envs, n_steps, gamma, handle_timeout_termination=True, normalize=lambda reward: reward):
        self.rows, self.n_steps, self.gamma = rows, n_steps, gamma
        self.handle_timeout_termination, self.normalize = handle_timeout_termination, normalize
        self.streams = [[] for _ in range(n_envs)]

    def add(self, transitions):
        for stream, transition in zip(self.streams, transitions, strict=True):
            stream.append(transition)
            del stream[: -self.rows]

    def interrupt(self, env):
        if self.streams[env]:
            self.streams[env][-1].interrupted = True

    def expected(self):
        """:return: for each stored observation: action, n-step return, discount, next observation, done"""
        return {t.obs: self.n_step(stream, start) for stream in self.streams for start, t in enumerate(stream)}

    def n_step(self, stream, start):
        total, discount = 0.0, 1.0
        for last in stream[start : start + self.n_steps]:
            total += discount * self.normalize(last.reward)
            discount *= self.gamma
            if last.terminated or last.truncated or last.interrupted:
                break
        done = last.terminated or (last.truncated and not self.handle_timeout_termination)
        return stream[start].action, total, discount, last.next_obs, float(done)


def sampled(buffer, env=None, per_slot=3):
    """
    Draw so often that each transition comes, as long as all have the same priority: sampling is stratified.

    :return: for each observation drawn: action, n-step return, discount, next observation, done
    """
    batch = buffer.sample(per_slot * buffer.size() * buffer.n_envs, env=env)
    columns = [getattr(batch, name) for name in ("actions", "rewards", "discounts", "dones")]
    assert all(column.shape == (len(batch.indices), 1) for column in columns)
    actions, rewards, discounts, dones = (column.squeeze(1).tolist() for column in columns)
    found, slots = {}, {}
    rows = zip(decode(batch.observations), actions, rewards, discounts, decode(batch.next_observations), dones, strict=True)
    for slot, (obs, *rest) in zip(batch.indices.tolist(), rows, strict=True):
        assert slots.setdefault(slot, obs) == obs  # an index is one transition
        assert found.setdefault(obs, rest) == rest
    assert len(slots) == len(found)
    return found


def assert_newest_same(found, expected):
    """
    The oldest ones may be missing, and are with optimize_memory_usage where episodes are short: each costs the room of
    another observation, so that even episodes of one step leave half of all.
    """
    oldest = {}
    for env, serial in found:
        oldest[env] = min(serial, oldest.get(env, serial))
    there = {(env, serial): value for (env, serial), value in expected.items() if serial >= oldest[env]}
    assert_same(found, there)
    assert 2 * len(there) >= len(expected)


def assert_same(found, expected):
    assert found.keys() == expected.keys()
    for obs, (action, total, discount, next_obs, done) in expected.items():
        found_action, found_total, found_discount, found_next_obs, found_done = found[obs]
        assert (found_action, found_next_obs, found_done) == (action, next_obs, done), obs
        assert abs(found_total - total) < 1e-5 and abs(found_discount - discount) < 1e-6, obs
