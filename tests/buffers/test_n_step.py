"""n-step returns of both buffers: where they end, what they bootstrap from, and that nothing mixes."""

import gymnasium as gym
import numpy as np
import pytest
from gymnasium import spaces
from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize

from sb3_distrl.buffers import PrioritizedDictReplayBuffer, PrioritizedReplayBuffer
from tests.buffers.naive_replay import (
    ACTIONS,
    ARRAY_SPACE,
    CLASSES,
    DICT_SPACE,
    Episodes,
    NaiveReplay,
    Transition,
    assert_newest_same,
    assert_same,
    feed,
    make_buffer,
    sampled,
)

pytestmark = pytest.mark.usefixtures("optimize")

GAMMA = 0.9


# Fewer rows than n_steps, wrapping several times, never full
@pytest.mark.parametrize(("rows", "handle_timeouts"), [(1, True), (2, True), (11, True), (11, False), (64, True)])
@pytest.mark.parametrize("n_steps", [1, 3, 7])
@pytest.mark.parametrize("n_envs", [1, 3])
@pytest.mark.parametrize("buffer_class", CLASSES)
def test_against_a_list_of_transitions(buffer_class, n_envs, n_steps, rows, handle_timeouts, optimize):
    """Random episodes, of which some are cut off by a reset that the buffer is not told of."""
    options = dict(n_steps=n_steps, gamma=GAMMA, handle_timeout_termination=handle_timeouts)
    buffer, naive = make_buffer(buffer_class, rows, n_envs, **options), NaiveReplay(rows, n_envs, **options)
    episodes = Episodes(n_envs, seed=n_steps)
    for step in range(50):
        for env in range(n_envs):
            if episodes.rng.random() < 0.1:
                episodes.reset(env)
                naive.interrupt(env)
        transitions = episodes.step()
        naive.add(transitions)
        feed(buffer, transitions)
        if step < 4 or step % 5 == 0:
            (assert_newest_same if optimize else assert_same)(sampled(buffer), naive.expected())
            buffer.check_valid()


@pytest.mark.parametrize("buffer_class", CLASSES)
def test_long_episodes_fill_the_window(buffer_class):
    """Without ends, all but the newest n - 1 transitions sum n rewards, the one across the seam of the ring too."""
    buffer, naive = make_buffer(buffer_class, 10, 3, n_steps=4, gamma=GAMMA), NaiveReplay(10, 3, 4, GAMMA)
    episodes = Episodes(3, termination=0.0, truncation=0.0)
    for _ in range(27):
        transitions = episodes.step()
        naive.add(transitions)
        feed(buffer, transitions)
    found = sampled(buffer)
    assert_same(found, naive.expected())
    steps = sorted(round(np.log(discount) / np.log(GAMMA)) for _, _, discount, _, _ in found.values())
    assert steps == sorted([4] * 21 + [1, 2, 3] * 3)


def test_a_size_that_the_environments_do_not_divide(optimize):
    """11 transitions of 3 environments are 3 rows."""
    buffer = PrioritizedReplayBuffer(11, ARRAY_SPACE, ACTIONS, "cpu", 3, optimize, n_steps=2, gamma=GAMMA)
    naive, episodes = NaiveReplay(3, 3, 2, GAMMA), Episodes(3)
    for _ in range(8):
        transitions = episodes.step()
        naive.add(transitions)
        feed(buffer, transitions)
        assert_newest_same(sampled(buffer), naive.expected())


@pytest.mark.parametrize("buffer_class", CLASSES)
@pytest.mark.parametrize(("terminated", "done"), [(True, 1.0), (False, 0.0)])
def test_end_of_an_episode_by_hand(buffer_class, terminated, done):
    """Rewards 1, 2, 4 and the end, which is trained on with shorter returns; then another episode."""
    buffer = make_buffer(buffer_class, n_steps=3, gamma=0.5)
    for step, reward in enumerate([1.0, 2.0, 4.0]):
        end = step == 2
        transition = Transition((0, step), 3, reward, (0, step + 1), end and terminated, end and not terminated)
        feed(buffer, [transition])
    feed(buffer, [Transition((0, 10), 1, 100.0, (0, 11))])
    assert sampled(buffer) == {
        (0, 0): [3, 3.0, 0.125, (0, 3), done],
        (0, 1): [3, 4.0, 0.25, (0, 3), done],
        (0, 2): [3, 4.0, 0.5, (0, 3), done],
        (0, 10): [1, 100.0, 0.5, (0, 11), 0.0],
    }


@pytest.mark.parametrize("buffer_class", CLASSES)
def test_without_timeout_handling_a_truncation_is_a_termination(buffer_class):
    buffer = make_buffer(buffer_class, n_steps=2, gamma=0.5, handle_timeout_termination=False)
    feed(buffer, [Transition((0, 0), 0, 1.0, (0, 1))])
    feed(buffer, [Transition((0, 1), 0, 2.0, (0, 2), truncated=True)])
    feed(buffer, [Transition((0, 5), 0, 4.0, (0, 6))])
    found = sampled(buffer)
    assert found[0, 0] == [0, 2.0, 0.25, (0, 2), 1.0]
    assert found[0, 1] == [0, 2.0, 0.5, (0, 2), 1.0]


@pytest.mark.parametrize("buffer_class", CLASSES)
def test_each_environment_has_its_own_stream(buffer_class):
    """Rewards name their environment, and the end of an episode in one is no end in another."""
    buffer = make_buffer(buffer_class, 6, 3, n_steps=4, gamma=0.1)
    for step in range(4):
        transitions = [Transition((e, 10 * e + step), e, e + 1.0, (e, 10 * e + step + 1)) for e in range(3)]
        transitions[1].terminated = step == 1
        feed(buffer, transitions)
    found = sampled(buffer)
    expected = {
        (0, 0): (0, 1.111, 1e-4, (0, 4), 0.0),
        (1, 10): (1, 2.2, 1e-2, (1, 12), 1.0),
        (2, 20): (2, 3.333, 1e-4, (2, 24), 0.0),
    }
    assert_same({obs: found[obs] for obs in expected}, expected)


# Normalised rewards


class Still(gym.Env):
    """One observation, random rewards."""

    def __init__(self, observation_space):
        self.observation_space, self.action_space = observation_space, ACTIONS

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        return self.observation_space.sample(), {}

    def step(self, action):
        return self.observation_space.sample(), float(self.np_random.normal()), False, False, {}


def normalizing(space, n_envs=1, **kwargs):
    env = VecNormalize(DummyVecEnv([lambda: Still(space)] * n_envs), **kwargs)
    env.seed(0)
    env.reset()
    for _ in range(20):
        env.step(np.zeros(n_envs, dtype=int))
    return env


@pytest.mark.parametrize("buffer_class", CLASSES)
def test_each_reward_is_normalised_and_clipped_before_the_sum(buffer_class):
    buffer = make_buffer(buffer_class, 12, 3, n_steps=4, gamma=GAMMA)
    env = normalizing(buffer.observation_space, 3, norm_obs=False, norm_reward=True, clip_reward=0.4)
    scale = np.sqrt(env.ret_rms.var + env.epsilon)

    def normalize(reward):
        return min(max(reward / scale, -0.4), 0.4)

    naive, raw = NaiveReplay(12, 3, 4, GAMMA, normalize=normalize), NaiveReplay(12, 3, 4, GAMMA)
    episodes = Episodes(3)
    for _ in range(30):
        transitions = episodes.step()
        naive.add(transitions), raw.add(transitions)
        feed(buffer, transitions)
    assert_newest_same(sampled(buffer, env), naive.expected())
    assert_newest_same(sampled(buffer), raw.expected())
    env.ret_rms.var = np.float64(100.0)  # raw rewards are stored: new statistics hold for old rewards
    scale = np.sqrt(100.0 + env.epsilon)
    assert_newest_same(sampled(buffer, env), naive.expected())


def test_normalised_rewards_by_hand():
    buffer = make_buffer(n_steps=3, gamma=0.5)
    env = normalizing(buffer.observation_space, norm_obs=False, clip_reward=0.5, epsilon=0.0)
    env.ret_rms.var = np.float64(4.0)
    for step, reward in enumerate([3.0, -0.4, 0.6]):
        feed(buffer, [Transition((0, step), 0, reward, (0, step + 1))])
    # 1.5 is clipped to 0.5: 0.5 - 0.1 + 0.075. Normalised after the sum: clip((3 - 0.2 + 0.15) / 2) = 0.5
    found = sampled(buffer, env)
    assert_same({(0, 0): found[0, 0]}, {(0, 0): (0, 0.475, 0.125, (0, 3), 0.0)})


def test_observations_are_normalised():
    buffer = make_buffer(n_steps=2)
    env = normalizing(buffer.observation_space, norm_reward=False, epsilon=0.0, clip_obs=7.0)
    env.obs_rms.mean, env.obs_rms.var = np.array([1.0, 10.0]), np.array([1.0, 4.0])
    feed(buffer, [Transition((0, 14), 0, 1.0, (0, 16))])
    feed(buffer, [Transition((0, 16), 0, 1.0, (0, 40))])
    batch = buffer.sample(2, env=env)
    assert batch.observations.tolist() == [[-1.0, 2.0], [-1.0, 3.0]]
    assert batch.next_observations.tolist() == [[-1.0, 7.0], [-1.0, 7.0]]
    assert buffer.sample(2).observations.tolist() == [[0.0, 14.0], [0.0, 16.0]]


def test_dict_observations_are_normalised():
    buffer = make_buffer(PrioritizedDictReplayBuffer)
    env = normalizing(DICT_SPACE, norm_reward=False, norm_obs_keys=["serial"], epsilon=0.0)
    env.obs_rms["serial"].mean, env.obs_rms["serial"].var = np.full((1, 1), 10.0), np.full((1, 1), 4.0)
    feed(buffer, [Transition((5, 14), 0, 1.0, (5, 16))])
    batch = buffer.sample(1, env=env)
    assert (batch.observations["env"].item(), batch.observations["serial"].item()) == (5, 2.0)
    assert (batch.next_observations["env"].item(), batch.next_observations["serial"].item()) == (5, 3.0)


# Kinds of observations


@pytest.mark.parametrize(
    ("space", "dtype"),
    [
        (spaces.Box(-1, 1, (3, 2), np.float32), np.float64),  # what the environment returns is more exact than the buffer
        (spaces.Box(-1, 1, (3, 2), np.float64), np.float64),
        (spaces.Box(0, 255, (1, 4, 5), np.uint8), np.uint8),
        (spaces.Discrete(1000), np.int64),
        (spaces.MultiDiscrete([100, 200]), np.int64),
        (spaces.MultiBinary(12), np.int8),
    ],
)
def test_an_episode_goes_on_for_all_kinds_of_observations(space, dtype, optimize):
    """The check whether an observation continues the episode neither misses one nor takes another for it."""
    n_envs, n_steps, length = 3, 3, 5
    buffer = PrioritizedReplayBuffer(30, space, ACTIONS, "cpu", n_envs, optimize, n_steps=n_steps, gamma=0.5)
    space.seed(0)
    obs = np.stack([space.sample() for _ in range(n_envs)]).astype(dtype)
    for step in range(length):
        next_obs = np.stack([space.sample() for _ in range(n_envs)]).astype(dtype)
        if dtype == np.float64:
            next_obs += 1e-9  # no float32
        buffer.add(obs, next_obs, np.zeros(n_envs), np.ones(n_envs), np.zeros(n_envs, bool), [{}] * n_envs)
        obs = next_obs.copy()
        if step == 2:
            obs[1] = space.sample()  # environment 1 is reset
    batch = buffer.sample(60)
    discounts = dict(zip(batch.indices.tolist(), batch.discounts.squeeze(1).tolist(), strict=True))
    steps = np.array([-np.log2(discounts[slot]) for slot in range(length * n_envs)]).reshape(length, n_envs)
    assert steps.T.tolist() == [[3, 3, 3, 2, 1], [3, 2, 1, 2, 1], [3, 3, 3, 2, 1]]
