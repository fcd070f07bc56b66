"""Environments whose observations are stacks of frames, laid out and padded in all ways that wrappers know and some more."""

from dataclasses import dataclass

import numpy as np
from gymnasium import spaces

LAYOUTS = {"first": (0, (2, 3)), "last": (-1, (2, 3)), "flat": (0, ()), "axis": (None, (3,))}
PADDINGS = ["zeros", "repeats", "history"]
VALUES = {
    np.uint8: {"zero": [0], "few": [0, 0, 1], "many": range(256)},
    np.float32: {"zero": [0.0, -0.0], "few": [0.0, 0.0, -0.0, 1.0], "many": np.linspace(-3, 3, 997)},
}


@dataclass
class Part:
    """
    One space of an observation.

    :param layout: channels first or last, a flat array, or stacked on a new first axis
    :param frames: in the stack
    :param channels: of each frame, but where it is stacked on a new axis
    :param padding: what a stack shows before the first frame: zeros (VecFrameStack), the first frame again
        (FrameStackObservation), or frames of a random past
    :param dtype: of the frames
    :param values: of the frames, see VALUES
    """

    layout: str = "first"
    frames: int = 4
    channels: int = 1
    padding: str = "zeros"
    dtype: type = np.uint8
    values: str = "many"

    @property
    def n_slices(self):
        return self.frames * self.shift

    @property
    def shift(self):
        """Slices by which the next observation differs."""
        return 1 if self.layout == "axis" else self.channels

    def frame_shape(self):
        axis, shape = LAYOUTS[self.layout]
        return shape if axis is None else (self.channels, *shape) if axis == 0 else (*shape, self.channels)

    def draw(self, rng, *shape):
        """:return: random frames, shape [*shape, *frame_shape]"""
        return rng.choice(np.array(VALUES[self.dtype][self.values], self.dtype), (*shape, *self.frame_shape()))

    def observation(self, frames):
        """:param frames: shape [n_envs, frames, *frame_shape]"""
        axis, _ = LAYOUTS[self.layout]
        if axis is None:
            return frames.copy()
        return np.concatenate(list(frames.swapaxes(0, 1)), axis=1 if axis == 0 else -1)

    def space(self):
        shape = self.observation(np.zeros((1, self.frames, *self.frame_shape()))).shape[1:]
        low, high = (0, 255) if self.dtype == np.uint8 else (-np.inf, np.inf)
        return spaces.Box(low, high, shape, self.dtype)


class StackedEnvs:
    """
    Several environments; where they are reset, and when, is up to the caller.

    :param parts: of a Dict observation, or one with the key ""
    """

    def __init__(self, parts, n_envs, rng):
        self.parts, self.n_envs, self.rng = parts, n_envs, rng
        self.stacks = {key: part.draw(rng, n_envs, part.frames) for key, part in parts.items()}
        self.reset(np.arange(n_envs))

    def space(self):
        members = {key: part.space() for key, part in self.parts.items()}
        return members[""] if "" in members else spaces.Dict(members)

    def obs(self):
        return {key: part.observation(self.stacks[key]) for key, part in self.parts.items()}

    def reset(self, envs):
        for key, part in self.parts.items():
            frame, stack = part.draw(self.rng, len(envs)), self.stacks[key]
            if part.padding == "history":
                stack[envs] = part.draw(self.rng, len(envs), part.frames)
            else:
                stack[envs] = 0 if part.padding == "zeros" else frame[:, None]
            stack[envs, -1] = frame

    def step(self, frozen=0.0, broken=0.0):
        """
        :param frozen: probability that an observation of all parts stays as it is
        :param broken: probability that the stack is a new one, with nothing of the last
        """
        moving = np.flatnonzero(self.rng.random(self.n_envs) >= frozen)
        for key, part in self.parts.items():
            stack = self.stacks[key]
            stack[moving, :-1] = stack[moving, 1:]
            stack[moving, -1] = part.draw(self.rng, len(moving))
            jumping = moving[self.rng.random(len(moving)) < broken]
            stack[jumping] = part.draw(self.rng, len(jumping), part.frames)


def passed(obs):
    """:return: the observations as a buffer gets them, in arrays of their own"""
    copies = {key: array.copy() for key, array in obs.items()}
    return copies.get("", copies)


def received(obs):
    """:return: observations that were passed or sampled, as arrays for each key, or for ''"""
    return {key: np.asarray(array) for key, array in (obs if isinstance(obs, dict) else {"": obs}).items()}
