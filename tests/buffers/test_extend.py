"""`extend` is SB3's: transitions that somebody else has seen, such as demonstrations, one after another."""

import copy
import pickle

import numpy as np
import pytest
from stable_baselines3.common.buffers import ReplayBuffer

from sb3_distrl import QRDQN
from sb3_distrl.buffers import PrioritizedDictReplayBuffer
from tests.buffers.naive_replay import CLASSES, Episodes, encode, feed, make_buffer, sampled
from tests.common.envs import vec_env


def columns(transitions, as_dict):
    """:return: arguments of extend for these transitions, a list of one for each environment at each time step"""
    ends = [[t.terminated or t.truncated for t in step] for step in transitions]
    infos = [[{"TimeLimit.truncated": t.truncated} for t in step] for step in transitions]
    obs, next_obs = (
        [encode([getattr(t, name) for t in step], as_dict) for step in transitions] for name in ("obs", "next_obs")
    )
    actions, rewards = (np.array([[getattr(t, name) for t in step] for step in transitions]) for name in ("action", "reward"))
    return obs, next_obs, actions, rewards, np.array(ends), infos


@pytest.mark.parametrize("buffer_class", CLASSES)
def test_it_adds_as_add_does_and_as_sb3_does(buffer_class):
    episodes = Episodes(2)
    transitions = [episodes.step() for _ in range(8)]
    as_dict = buffer_class is PrioritizedDictReplayBuffer
    extended, added = (make_buffer(buffer_class, n_envs=2, n_steps=3) for _ in range(2))
    arguments = columns(transitions, as_dict)
    extended.extend(*copy.deepcopy(arguments))
    for step in transitions:
        feed(added, step)
    extended.check_valid()
    assert sampled(extended) == sampled(added)
    if not as_dict:
        sb3 = make_buffer(ReplayBuffer, n_envs=2)
        sb3.extend(*arguments)
        for name in ("observations", "next_observations", "actions", "rewards", "dones", "timeouts"):
            assert np.array_equal(getattr(extended, name), getattr(sb3, name)), name


def test_the_arrays_of_one_buffer_extend_another():
    """As in SB3's own test of it."""
    model = QRDQN("MlpPolicy", vec_env(), buffer_size=200, learning_starts=50, policy_kwargs=dict(net_arch=[8])).learn(100)
    old = pickle.loads(pickle.dumps(model.replay_buffer))
    infos = [[{"TimeLimit.truncated": truncated}] for (truncated,) in old.timeouts[:100]]
    arrays = [getattr(old, name)[:100] for name in ("observations", "next_observations", "actions", "rewards", "dones")]
    model.replay_buffer.extend(*arrays, infos)
    assert model.replay_buffer.size() == 200
    model.replay_buffer.check_valid()
    for name in ("observations", "next_observations", "actions", "rewards", "dones", "timeouts"):
        array = getattr(model.replay_buffer, name)
        assert np.array_equal(array[100:], getattr(old, name)[:100]), name
    model.learn(10, reset_num_timesteps=False)


def test_lists_of_different_lengths():
    obs, *rest = columns([Episodes(2).step()], False)
    with pytest.raises(ValueError, match=r"longer|shorter"):
        make_buffer(n_envs=2).extend([*obs, *obs], *rest)


def test_blocks_were_once_given_to_extend():
    source, buffer, other = (make_buffer(n_envs=2) for _ in range(3))
    source.start_block()
    feed(source, Episodes(2).step())
    with pytest.warns(DeprecationWarning, match="add_block"):
        buffer.extend(np.arange(2), source.block())
    other.add_block(np.arange(2), source.block())
    assert sampled(buffer) == sampled(other)
