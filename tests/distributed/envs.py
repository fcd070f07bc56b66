"""Environments that misbehave, in whatever process they are."""

import os
import signal
import time
from pathlib import Path

import gymnasium
import numpy as np

MESSAGE = "the simulator has no licence"


class Misbehaving(gymnasium.Wrapper):
    """
    Steps well until something happens.

    :param env: environment
    :param what: happens: "exception", "exit", "kill", "hang", "nan reward", "nan obs" or "wrong shape"
    :param after: steps
    :param times: how often, over all processes; a file in ``folder`` is there for each time
    :param folder: of these files
    """

    def __init__(self, env, what, after, times, folder):
        super().__init__(env)
        self.what, self.after, self.times, self.folder, self.steps = what, after, times, Path(folder), 0

    def step(self, action):
        obs, reward, terminated, truncated, info = self.env.step(action)
        self.steps += 1
        if self.steps == self.after and self.its_turn():
            obs, reward = self.misbehave(obs, reward)
        return obs, reward, terminated, truncated, info

    def its_turn(self):
        """:return: whether it is to happen once more, here and not in another process"""
        for i in range(self.times):
            try:
                (self.folder / str(i)).touch(exist_ok=False)
                return True
            except FileExistsError:
                pass
        return False

    def misbehave(self, obs, reward):
        if self.what == "exception":
            raise ConnectionResetError(MESSAGE)
        if self.what == "exit":
            os._exit(3)
        if self.what == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        if self.what == "hang":
            time.sleep(3600)
        if self.what == "nan reward":
            return obs, float("nan")
        if self.what == "nan obs":
            return obs * np.nan, reward
        if self.what == "wrong shape":
            return np.zeros(7, np.float32), reward
        raise AssertionError(self.what)


def misbehaving(what, folder, after=60, times=1):
    """:return: a function that makes such a CartPole"""

    def make():
        return Misbehaving(gymnasium.make("CartPole-v1"), what, after, times, folder)

    return make


class Telling(gymnasium.Wrapper):
    """
    Tells of its being closed by a file for the process that does it.

    :param env: environment
    :param folder: of these files
    :param process: that can close it; in all others it raises an exception, ``None`` for none
    """

    def __init__(self, env, folder, process=None):
        super().__init__(env)
        self.folder, self.process = Path(folder), process

    @classmethod
    def maker(cls, folder, process=None):
        """:return: a function that makes such a CartPole"""
        return lambda: cls(gymnasium.make("CartPole-v1"), folder, process)

    def close(self):
        (self.folder / f"closed by {os.getpid()}").touch()
        super().close()
        if self.process not in (None, os.getpid()):
            raise ConnectionResetError(MESSAGE)
