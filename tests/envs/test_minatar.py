"""The games that are registered are MinAtar's, channel-first and with a time limit."""

import gymnasium
import minatar
import numpy as np
import pytest
from stable_baselines3.common.env_checker import check_env
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.vec_env import SubprocVecEnv, VecVideoRecorder

from sb3_distrl.envs import register_minatar
from sb3_distrl.envs.minatar import GAMES, MAX_EPISODE_STEPS

NAMES = ["Asterix", "Breakout", "Freeway", "Seaquest", "SpaceInvaders"]


@pytest.fixture(autouse=True)
def registered():
    register_minatar()


@pytest.mark.parametrize("version", ["v0", "v1"])
@pytest.mark.parametrize(("name", "game"), list(zip(NAMES, GAMES, strict=True)))
def test_observations_and_rewards_are_minatars(name, game, version):
    env = gymnasium.make(f"MinAtar/{name}-{version}")
    own = minatar.Environment(game)
    actions = own.minimal_action_set() if version == "v1" else list(range(6))
    assert env.action_space.n == len(actions)
    own.seed(3)
    own.reset()
    obs, _ = env.reset(seed=3)
    env.action_space.seed(3)
    for _ in range(300):
        assert obs.shape == env.observation_space.shape and obs.dtype == bool
        assert env.observation_space.contains(obs)
        assert np.array_equal(obs, np.moveaxis(own.state(), -1, 0))
        action = env.action_space.sample()
        obs, reward, terminated, truncated, _ = env.step(action)
        assert (reward, terminated) == own.act(actions[action])
        assert not truncated
        if terminated:
            own.reset()
            obs, _ = env.reset()


def test_episodes_are_truncated():
    """In Freeway the chicken cannot die, but the game ends by itself; in Breakout's it ends when the ball is lost."""
    env = gymnasium.make("MinAtar/Breakout-v1")
    assert env.spec.max_episode_steps == MAX_EPISODE_STEPS
    env = gymnasium.make("MinAtar/Freeway-v1", max_episode_steps=50)
    env.reset(seed=0)
    for step in range(1, 51):
        _, _, terminated, truncated, _ = env.step(0)
        assert not terminated and truncated == (step == 50)


def test_they_replace_minatars_own_registration():
    from minatar.gym import register_envs

    register_envs()
    assert gymnasium.make("MinAtar/Breakout-v1").observation_space.shape == (10, 10, 4)
    register_minatar()
    assert gymnasium.make("MinAtar/Breakout-v1").observation_space.shape == (4, 10, 10)


@pytest.mark.filterwarnings("ignore:.*(is an image|minimal resolution).*")
def test_sb3_takes_them():
    check_env(gymnasium.make("MinAtar/Asterix-v1").unwrapped)
    check_env(gymnasium.make("MinAtar/Asterix-v1"))


def test_sticky_actions_and_ramping_are_arguments():
    env = gymnasium.make("MinAtar/Asterix-v1", sticky_action_prob=0.0, difficulty_ramping=False)
    assert env.unwrapped.game.sticky_action_prob == 0.0
    assert env.unwrapped.game.env.ramping is False


@pytest.mark.slow
def test_subprocesses_and_pictures(tmp_path):
    spec = gymnasium.spec("MinAtar/Breakout-v1")  # as in rl-zoo3, since other processes do not know the id
    env = make_vec_env(lambda: spec.make(render_mode="rgb_array"), n_envs=2, vec_env_cls=SubprocVecEnv)
    env = VecVideoRecorder(env, str(tmp_path), record_video_trigger=lambda step: step == 0, video_length=5)
    env.reset()
    for _ in range(6):
        env.step(np.array([0, 1]))
    images = env.get_images()
    assert images[0].shape == (320, 320, 3) and images[0].dtype == np.uint8
    assert len(np.unique(images[0].reshape(-1, 3), axis=0)) >= 3  # paddle, ball, bricks, background
    env.close()
    assert len(list(tmp_path.glob("*.mp4"))) == 1


def test_without_minatar_the_remedy_is_named(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "minatar.gym", None)
    with pytest.raises(gymnasium.error.DependencyNotInstalled, match=r"pip install 'sb3-distrl\[minatar\]'"):
        gymnasium.make("MinAtar/Breakout-v1")
