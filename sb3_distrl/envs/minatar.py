"""MinAtar (Young & Tian 2019, https://arxiv.org/abs/1903.03176) as Gymnasium environments."""

from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces
from gymnasium.error import DependencyNotInstalled

GAMES = ("asterix", "breakout", "freeway", "seaquest", "space_invaders")
MAX_EPISODE_STEPS = 10_000  # for a good player, some games never end
PIXELS_PER_CELL = 32


class MinAtar(gymnasium.ObservationWrapper):
    """A game with channel-first observations, as in torch, and images large enough to watch."""

    def __init__(self, env: gymnasium.Env) -> None:
        super().__init__(env)
        assert env.observation_space.shape is not None
        height, width, channels = env.observation_space.shape
        self.observation_space = spaces.Box(0, 1, (channels, height, width), dtype=bool)

    def observation(self, observation: np.ndarray) -> np.ndarray:
        return np.ascontiguousarray(observation.transpose(2, 0, 1))

    def render(self) -> Any:
        """:return: with ``render_mode="rgb_array"``, a uint8 image of shape [H, W, 3]; otherwise MinAtar's result"""
        picture = super().render()
        if self.render_mode != "rgb_array":
            return picture
        image = (255 * np.asarray(picture)).round().astype(np.uint8)
        return image.repeat(PIXELS_PER_CELL, axis=0).repeat(PIXELS_PER_CELL, axis=1)


def make_minatar(**kwargs: Any) -> gymnasium.Env:
    """
    Make a MinAtar environment.

    :param kwargs: ``game``, ``use_minimal_action_set``, ``sticky_action_prob``, ``difficulty_ramping``, ``render_mode``
    :return: the environment
    :raises DependencyNotInstalled: if MinAtar is not installed
    """
    try:
        from minatar.gym import BaseEnv
    except ImportError as error:
        raise DependencyNotInstalled("MinAtar is not installed: pip install 'sb3-distrl[minatar]'.") from error
    return MinAtar(BaseEnv(**kwargs))


def register_minatar() -> None:
    """
    Register MinAtar's games under their names, such as ``MinAtar/Breakout-v1``, channel-first and with a time limit.

    As in MinAtar, v0 has all six actions and v1 those that the game needs, actions are sticky with probability 0.1, and
    difficulty increases. This replaces MinAtar's own registration, which Gymnasium does not load by itself.
    """
    for game in GAMES:
        name = game.title().replace("_", "")
        for version, minimal in enumerate((False, True)):
            env_id = f"MinAtar/{name}-v{version}"
            gymnasium.registry.pop(env_id, None)
            gymnasium.register(
                env_id,
                entry_point="sb3_distrl.envs.minatar:make_minatar",
                kwargs=dict(game=game, use_minimal_action_set=minimal),
                max_episode_steps=MAX_EPISODE_STEPS,
            )
