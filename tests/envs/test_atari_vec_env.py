"""AtariVecEnv is a VecEnv that SB3 and this library can train with."""

import time
from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium.error import DependencyNotInstalled
from stable_baselines3 import DQN
from stable_baselines3.common.atari_wrappers import AtariWrapper
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.monitor import Monitor

from sb3_distrl import Rainbow
from sb3_distrl.buffers import PrioritizedReplayBuffer
from sb3_distrl.envs import AtariVecEnv
from tests.envs.atari import BREAKOUT, PONG, Random, play, sb3

# Steps


def test_observations_belong_to_the_caller() -> None:
    env = AtariVecEnv(BREAKOUT, n_envs=2, noop_max=0)
    expected = play(AtariVecEnv(BREAKOUT, n_envs=2, noop_max=0), 100)
    steps = play(env, 100)
    copies = [step[0].copy() for step in steps]
    env.reset()
    for step, copied, other in zip(steps, copies, expected, strict=True):
        np.testing.assert_array_equal(step[0], copied)
        np.testing.assert_array_equal(step[0], other[0])
    policy, observation = Random(env), env.reset()
    for step in expected[:-1]:
        np.testing.assert_array_equal(observation, step[0])
        observation[:] = 77  # which is no business of the next one
        observation = env.step(policy.predict(observation)[0])[0]


def seconds_of_other_threads() -> float:
    """:return: that the processor has computed for them"""
    return time.process_time() - time.thread_time()


def test_games_are_played_while_nobody_waits() -> None:
    env = AtariVecEnv(BREAKOUT, n_envs=8, terminal_on_life_loss=False)
    env.reset()
    began = seconds_of_other_threads()
    for _ in range(10):
        env.step(np.zeros(8))
    of_a_step = (seconds_of_other_threads() - began) / 10
    began, deadline = seconds_of_other_threads(), time.monotonic() + 300
    env.step_async(np.zeros(8))
    while seconds_of_other_threads() - began < of_a_step / 2:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    env.step_wait()


def test_a_step_that_was_left() -> None:
    env = AtariVecEnv(BREAKOUT, n_envs=2, noop_max=0)
    first = env.reset()
    with pytest.raises(RuntimeError, match="No step is under way"):
        env.step_wait()
    env.step_async(np.array([2, 3]))
    with pytest.raises(RuntimeError, match="not waited for"):
        env.step_async(np.array([2, 3]))
    np.testing.assert_array_equal(env.reset(), first)
    assert env.step(np.array([2, 3]))[3][0]["episode_frame_number"] == 12
    env.step_async(np.array([2, 3]))
    env.close()
    env.close()


@pytest.mark.parametrize("action", [-1, 4])
def test_actions_that_do_not_exist(action: int) -> None:
    env = AtariVecEnv(BREAKOUT, n_envs=2)
    env.reset()
    with pytest.raises(ValueError, match=rf"actions=\[0, {action}\] must be from Discrete\(4\)"):
        env.step(np.array([0, action]))


# As SB3 uses it


def test_actions_of_a_wrong_shape() -> None:
    env = AtariVecEnv(BREAKOUT, 2)
    env.reset()
    for shape in [(1, 2), (1,), (3,), ()]:
        with pytest.raises(ValueError, match=r"actions of shape .* should have shape \(2,\)"):
            env.step_async(np.zeros(shape, int))
    env.step(np.zeros((2, 1), int))
    env.close()


def test_evaluation_is_that_of_sb3() -> None:
    """Of whole games with their scores, although lives end episodes and rewards are clipped."""
    ours, theirs = AtariVecEnv("SeaquestNoFrameskip-v4", 2, noop_max=0), sb3("SeaquestNoFrameskip-v4", 2)
    results = [evaluate_policy(Random(env), env, 3, return_episode_rewards=True) for env in (ours, theirs)]
    assert results[0] == results[1] and max(results[0][0]) > 20


@pytest.mark.parametrize("algo", [Rainbow, DQN])
def test_training(algo: type) -> None:
    env = AtariVecEnv(BREAKOUT, n_envs=4, seed=0)
    settings: dict[str, Any] = dict(buffer_size=800, learning_starts=200, batch_size=8, train_freq=40)
    model = algo("CnnPolicy", env, seed=0, device="cpu", **settings)
    assert model.get_env() is env  # SB3 takes its observations for channel-first images
    model.learn(1000)
    assert model._n_updates > 0 and len(model.ep_info_buffer) > 0
    if algo is Rainbow:
        buffer = model.replay_buffer
        assert isinstance(buffer, PrioritizedReplayBuffer) and buffer.optimize_memory_usage
        buffer.check_valid()


def test_replay_gives_back_what_was_played() -> None:
    env = AtariVecEnv(BREAKOUT, n_envs=2, seed=0)
    buffer = PrioritizedReplayBuffer(
        2000, env.observation_space, env.action_space, "cpu", n_envs=2, optimize_memory_usage=True
    )
    policy, observations, played = Random(env), env.reset(), []
    for _ in range(400):
        actions, _ = policy.predict(observations)
        new_observations, rewards, dones, infos = env.step(actions)
        next_observations = new_observations.copy()
        for i in np.flatnonzero(dones):
            next_observations[i] = infos[i]["terminal_observation"]
        buffer.add(observations, next_observations, actions, rewards, dones, infos)
        played += [(observations[i].tobytes(), next_observations[i].tobytes(), bool(dones[i])) for i in range(2)]
        observations = new_observations
    buffer.check_valid()
    samples, n_ends = buffer.sample(500), 0
    for obs, next_obs, done in zip(samples.observations, samples.next_observations, samples.dones, strict=True):
        found = (obs.byte().numpy().tobytes(), next_obs.byte().numpy().tobytes(), bool(done))
        assert found in played
        n_ends += found[2]
    assert n_ends > 5


def test_pictures() -> None:
    env = AtariVecEnv(BREAKOUT, n_envs=2, noop_max=0)
    observations = env.reset()
    images = env.get_images()
    assert all(np.array_equal(image[:, :, 1], frame) for image, frame in zip(images, observations[:, -1], strict=True))
    picture = env.render()
    assert (picture is not None and picture.shape == (84, 168, 3)) or picture.shape == (168, 84, 3)


def test_what_is_asked_of_environments() -> None:
    env = AtariVecEnv(BREAKOUT, n_envs=3)
    assert env.env_is_wrapped(Monitor) == [True] * 3
    assert env.env_is_wrapped(AtariWrapper, indices=[0, 2]) == [False] * 2
    assert [spec.id for spec in env.get_attr("spec", indices=1)] == [BREAKOUT]
    assert env.has_attr("action_space") and not env.has_attr("ale")
    for call in (lambda: env.set_attr("lives", 3), lambda: env.env_method("lives")):
        with pytest.raises(NotImplementedError, match="use SB3's make_atari_env"):
            call()


# Mistakes


@pytest.mark.parametrize(
    ("env_id", "kwargs", "message"),
    [
        (PONG, dict(n_envs=0), "n_envs=0 must be at least 1"),
        (PONG, dict(noop_max=-1), "noop_max=-1 must be at least 0"),
        (PONG, dict(frame_skip=0), "frame_skip=0"),
        (PONG, dict(screen_size=0), "screen_size=0"),
        (PONG, dict(n_stack=0), "n_stack=0"),
        ("CartPole-v1", {}, "env_id=CartPole-v1 is not a game of ale-py"),
        ("Pung-v5", {}, "env_id=Pung-v5 is not a game of ale-py"),
        ("SpaceInvaders-v4", {}, r"frameskip=\(2, 5\): use SpaceInvadersNoFrameskip-v4"),
        (PONG, dict(env_kwargs=dict(mode=1)), r"env_kwargs=\{'mode': 1\} cannot be given"),
        (PONG, dict(env_kwargs=dict(obs_type="ram")), "'obs_type': 'ram'"),
        (
            "ALE/Pong-v5",
            dict(action_repeat_probability=0.1),
            "action_repeat_probability=0.1 comes on top of .*'s own 0.25",
        ),
        ("ALE/Backgammon-v5", {}, "env_id=ALE/Backgammon-v5 does not have NOOP"),
    ],
)
def test_mistakes(env_id: str, kwargs: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        AtariVecEnv(env_id, **kwargs)


def test_a_time_limit_of_gymnasiums_own_is_not_forgotten() -> None:
    spec = gymnasium.spec(PONG)
    gymnasium.register("ShortPong-v0", entry_point=spec.entry_point, kwargs=spec.kwargs, max_episode_steps=50)
    with pytest.raises(ValueError, match="env_id=ShortPong-v0"):
        AtariVecEnv("ShortPong-v0")
    del gymnasium.registry["ShortPong-v0"]


def test_without_ale_py_the_remedy_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "ale_py", None)
    with pytest.raises(DependencyNotInstalled, match=r"pip install 'sb3-distrl\[atari\]'"):
        AtariVecEnv(PONG)
