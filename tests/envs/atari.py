"""What the tests of AtariVecEnv play: SB3's environments, and the same actions on any."""

from typing import Any

import ale_py
import gymnasium
import numpy as np
from stable_baselines3.common.env_util import make_atari_env
from stable_baselines3.common.vec_env import VecEnv, VecFrameStack, VecTransposeImage

BREAKOUT, PONG = "BreakoutNoFrameskip-v4", "PongNoFrameskip-v4"


def sb3(
    env_id: str, n_envs: int = 1, n_stack: int = 4, env_kwargs: dict[str, Any] | None = None, monitor_dir=None, **kwargs: Any
) -> VecEnv:
    """:return: what AtariVecEnv stands for"""
    gymnasium.register_envs(ale_py)
    env = make_atari_env(
        env_id, n_envs, seed=0, wrapper_kwargs=dict(noop_max=0, **kwargs), env_kwargs=env_kwargs, monitor_dir=monitor_dir
    )
    return VecTransposeImage(VecFrameStack(env, n_stack))


class Random:
    """
    Acts at random, the same whatever it sees.

    :param env: for the number of actions
    """

    def __init__(self, env: VecEnv) -> None:
        self.rng, self.n_actions = np.random.default_rng(1), env.action_space.n

    def predict(self, observation: np.ndarray, **kwargs: Any) -> tuple[np.ndarray, None]:
        return self.rng.integers(0, self.n_actions, len(observation)), None


def play(env: VecEnv, n_steps: int) -> list[tuple]:
    """:return: observations, rewards, dones and infos of each step, after those of the reset"""
    policy, steps = Random(env), [(env.reset(), None, None, None)]
    for _ in range(n_steps):
        steps.append(env.step(policy.predict(steps[-1][0])[0]))
    return steps
