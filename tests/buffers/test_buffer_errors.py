"""Mistakes raise a ValueError that names the argument and the remedy."""

import numpy as np
import pytest
from gymnasium import spaces

from sb3_distrl.buffers import PrioritizedDictReplayBuffer, PrioritizedReplayBuffer
from tests.buffers.naive_replay import (
    ACTIONS,
    ARRAY_SPACE,
    CLASSES,
    DICT_SPACE,
    Episodes,
    Transition,
    encode,
    feed,
    make_buffer,
    sampled,
)

BAD = [np.nan, np.inf, -np.inf]


@pytest.mark.parametrize(
    ("argument", "value", "remedy"),
    [
        ("n_steps", 0, "use 1 for one-step returns"),
        ("n_steps", -3, "use 1"),
        ("n_steps", 2.5, "use 1"),
        ("n_envs", 0, "use the number of environments"),
        ("n_envs", 1.5, "use the number of environments"),
        ("alpha", -1, "use 0 for uniform sampling"),
        ("alpha", np.nan, "use 0 for uniform sampling"),
        ("alpha", np.inf, "use 0 for uniform sampling"),
        ("alpha", 100, "use 0 for uniform sampling"),
        ("beta", -1, "use 0 for no correction"),
        ("beta", np.inf, "use 0 for no correction"),
        ("beta", 100, "use 0 for no correction"),
        ("gamma", 2, "use a discount factor such as 0.99"),
        ("gamma", -0.1, "use a discount factor such as 0.99"),
        ("priority_eps", 0, "use 1e-6"),
        ("priority_eps", -1e-6, "use 1e-6"),
        ("priority_eps", np.nan, "use 1e-6"),
        ("priority_eps", np.inf, "use 1e-6"),
    ],
)
@pytest.mark.parametrize("buffer_class", CLASSES)
def test_arguments_out_of_range(buffer_class, argument, value, remedy):
    with pytest.raises(ValueError, match=f"{argument}={value} .*{remedy}"):
        make_buffer(buffer_class, **{argument: value})


@pytest.mark.parametrize("buffer_class", CLASSES)
def test_whole_numbers_of_other_types(buffer_class):
    with pytest.raises(ValueError, match=r"^buffer_size=10\.5 must be a whole number: use a number of transitions"):
        make_buffer(buffer_class, rows=10.5)
    buffer = make_buffer(buffer_class, rows=5e1, n_envs=np.float32(2), n_steps=np.int64(3))
    assert [type(value) for value in (buffer.buffer_size, buffer.n_envs, buffer.n_steps)] == [int] * 3
    assert (buffer.buffer_size, buffer.n_envs, buffer.n_steps) == (50, 2, 3)


@pytest.mark.parametrize("beta", [-1, np.nan, np.inf, 100])
def test_a_beta_of_a_sample_out_of_range(beta):
    buffer = make_buffer()
    feed(buffer, Episodes(1).step())
    with pytest.raises(ValueError, match=rf"^beta={beta} must be in \[0, 1\]: use 0 for no correction"):
        buffer.sample(2, beta=beta)


@pytest.mark.parametrize("optimize", [False, True])
@pytest.mark.parametrize("buffer_class", CLASSES)
def test_arguments_at_the_ends_of_their_range(buffer_class, optimize):
    options = dict(n_steps=1, alpha=0, beta=0, gamma=0, priority_eps=1e-12, optimize_memory_usage=optimize)
    buffer = make_buffer(buffer_class, **options)
    feed(buffer, [Transition((0, 0), 0, 5.0, (0, 1))])
    assert sampled(buffer)[0, 0] == [0, 5.0, 0.0, (0, 1), 0.0]
    make_buffer(buffer_class, gamma=1, alpha=1, beta=1)


def test_spaces_that_do_not_fit():
    with pytest.raises(ValueError, match=r"observation_space=Dict.* use PrioritizedDictReplayBuffer for Dict"):
        PrioritizedReplayBuffer(8, DICT_SPACE, ACTIONS)
    with pytest.raises(ValueError, match=r"observation_space=Box.* and PrioritizedReplayBuffer for all others"):
        PrioritizedDictReplayBuffer(8, ARRAY_SPACE, ACTIONS)


def test_fewer_transitions_than_environments():
    with pytest.raises(ValueError, match=r"buffer_size=2 .*holds a transition of each environment"):
        PrioritizedReplayBuffer(2, ARRAY_SPACE, ACTIONS, n_envs=3)


@pytest.mark.parametrize("optimize", [False, True])
@pytest.mark.parametrize("buffer_class", CLASSES)
def test_an_empty_buffer_has_nothing_to_sample(buffer_class, optimize):
    buffer = make_buffer(buffer_class, optimize_memory_usage=optimize)
    with pytest.raises(ValueError, match=r"batch_size=32 .*empty buffer: add some first"):
        buffer.sample(32)
    feed(buffer, Episodes(1).step())
    assert len(buffer.sample(2).indices) == 2
    buffer.reset()
    with pytest.raises(ValueError, match="empty buffer"):
        buffer.sample(32)


def add(buffer, obs, next_obs, reward=1.0):
    buffer.add(obs, next_obs, np.zeros(2, int), np.array([1.0, reward]), np.zeros(2, bool), [{}, {}])


def continuing(buffer_class, optimize=False):
    """A buffer of two environments after one step, the observations that go on from there, and what follows them."""
    buffer = make_buffer(buffer_class, n_envs=2, n_steps=2, gamma=0.5, optimize_memory_usage=optimize)
    observations = [encode([(0, t), (1, 10 + t)], buffer_class is PrioritizedDictReplayBuffer) for t in range(4)]
    add(buffer, observations[0], observations[1])
    return buffer, observations


def assert_goes_on(buffer, observations):
    """What was rejected has left no trace: the episodes go on where they were."""
    assert buffer.size() == 1
    add(buffer, observations[1], observations[2])
    found = sampled(buffer)
    assert found[0, 0] == [0, 1.5, 0.25, (0, 2), 0.0] and found[1, 10] == [0, 1.5, 0.25, (1, 12), 0.0]


@pytest.mark.parametrize("bad", BAD)
@pytest.mark.parametrize("buffer_class", CLASSES)
def test_rewards_that_are_not_finite(buffer_class, bad):
    buffer, observations = continuing(buffer_class)
    with pytest.raises(ValueError, match=rf"^reward={bad} is not finite.*: fix the environment"):
        add(buffer, observations[1], observations[2], reward=bad)
    assert_goes_on(buffer, observations)


@pytest.mark.parametrize("bad", BAD)
@pytest.mark.parametrize("which", ["obs", "next_obs"])
@pytest.mark.parametrize("optimize", [False, True])
@pytest.mark.parametrize("buffer_class", CLASSES)
def test_observations_that_are_not_finite(buffer_class, optimize, which, bad):
    """SB3 would store them, and the network would be lost some thousand steps later."""
    buffer, observations = continuing(buffer_class, optimize)
    names = ["obs", "next_obs"]
    broken = encode([(0, bad), (1, 3)], buffer_class is PrioritizedDictReplayBuffer)
    if isinstance(broken, dict):
        broken["env"] = np.array([0, 1])
        name = rf"{which}\['serial'\]"
    else:
        name = which
    pair = [broken if n == which else observations[1 + i] for i, n in enumerate(names)]
    with pytest.raises(ValueError, match=rf"^{name}={bad} is not finite.*: fix the environment"):
        add(buffer, *pair)
    assert_goes_on(buffer, observations)


@pytest.mark.filterwarnings("ignore:overflow")
@pytest.mark.parametrize("value", [1e39, -1e39])
@pytest.mark.parametrize("which", ["reward", "obs", "next_obs"])
@pytest.mark.parametrize("buffer_class", CLASSES)
def test_numbers_that_are_not_finite_once_stored(buffer_class, which, value):
    """SubprocVecEnv hands on float64 rewards and observations; the buffer keeps float32."""
    buffer, observations = continuing(buffer_class)
    values = dict(obs=observations[1], next_obs=observations[2], reward=np.float64(value))
    if which != "reward":
        broken = np.array([[0.0, value], [1.0, 3.0]])
        is_dict = buffer_class is PrioritizedDictReplayBuffer
        values[which] = dict(env=np.array([0, 1]), serial=broken[:, 1].reshape(2, 1, 1)) if is_dict else broken
        values["reward"] = 1.0
    with pytest.raises(ValueError, match=rf"^{which}.* is not finite.*: fix the environment"):
        add(buffer, **values)
    assert_goes_on(buffer, observations)


def test_integer_observations_need_no_check():
    buffer = PrioritizedReplayBuffer(4, spaces.MultiDiscrete([5, 6]), ACTIONS, n_envs=2)
    add(buffer, np.array([[1, 2], [3, 4]]), np.array([[4, 5], [0, 1]]))
    assert buffer.size() == 1
