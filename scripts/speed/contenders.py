"""
What ``gradient_steps.py`` measures: the common interface of all contenders, and this library's, SB3's and sb3-contrib's. The
other peers are in ``peers.py``.

A contender does whole gradient steps with its own public code and its own replay: sample, compute, update priorities. All of a
family have the same network, batch size, losses and Adam settings; the remaining differences are listed in ``LEFT_OUT``.
"""

import inspect
import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any, NamedTuple

import gymnasium
import numpy as np
import torch as th
from replay.stream import N_ACTIONS, SHAPE, Step, Stream
from sb3_contrib import QRDQN as ContribQRDQN
from stable_baselines3 import DQN
from stable_baselines3.common.envs import FakeImageEnv
from stable_baselines3.common.logger import Logger
from stable_baselines3.common.vec_env import VecEnv
from tqdm import tqdm

from sb3_distrl import IQN, QRDQN, Rainbow
from sb3_distrl.common.algorithm import ValueAlgorithm

GAMMA, N_ATOMS, V_MAX, HIDDEN, NOISY_STD = 0.99, 51, 10.0, 512, 0.5
ALPHA, BETA, N_STEPS = 0.5, 0.4, 3  # of Rainbow
N_QUANTILES, N_FRACTIONS, N_EVAL_FRACTIONS, N_COS = 200, 64, 32, 64
LEARNING_STARTS = 500  # environment steps
EPISODE_LENGTH = 800  # on average
WARM_UP = 3  # gradient steps
TARGET_UPDATE_INTERVAL = 32_000  # environment steps: no update of the target network while the clock runs
# Learning rate and eps
ADAM = {"rainbow": (6.25e-5, 1.5e-4), "iqn": (5e-5, 0.01 / 32), "qrdqn": (5e-5, 0.01 / 32), "dqn": (1e-4, 1e-8)}
MAX_GRAD_NORM = {"rainbow": None, "iqn": None, "qrdqn": None, "dqn": 10.0}  # Tianshou and CleanRL cannot clip


class Settings(NamedTuple):
    """What all contenders of a run are made with."""

    family: str  # of ADAM
    buffer: int = 100_000  # transitions
    whole: int = 20_000  # transitions given to buffers that keep whole observations
    batch: int = 32
    device: str = "cpu"
    cleanrl: str | None = None  # path of CleanRL's rainbow_atari.py


class Contender(ABC):
    """
    One learner.

    :param settings: what it is made with
    :param env: to be trained in; by default only the spaces of one
    :raises ImportError: if the package is not installed
    :raises RuntimeError: if it cannot be made for another reason
    """

    name: str
    keeps_whole = False  # observations in its replay

    def __init__(self, settings: Settings, env: Any = None) -> None:
        self.settings = settings
        self.seconds: dict[str, float] = {}  # spent so far in "replay" and "priorities"
        self._make(env)

    @abstractmethod
    def _make(self, env: Any) -> None: ...

    @abstractmethod
    def add(self, step: Step) -> None:
        """Add the step of one environment to the replay buffer."""

    @abstractmethod
    def step(self) -> None:
        """Do one gradient step."""

    @abstractmethod
    def run(self, n_steps: int) -> None:
        """Go on training in the environment for ``n_steps`` steps, a gradient step every fourth."""

    def watch(self, owner: Any, method: str, part: str) -> None:
        """
        Count the time that a method takes.

        :param owner: whose method
        :param method: its name
        :param part: to add the seconds to
        """
        call = getattr(owner, method)
        self.seconds.setdefault(part, 0.0)

        def timed(*args: Any, **kwargs: Any) -> Any:
            start = time.perf_counter()
            result = call(*args, **kwargs)
            self.seconds[part] += time.perf_counter() - start
            return result

        setattr(owner, method, timed)

    def synchronize(self) -> None:
        """Wait for the device."""
        if self.settings.device != "cpu":
            th.cuda.synchronize()


class SB3Contender(Contender):
    """An algorithm in SB3's manner; its learner step is ``train``."""

    cls: Any

    def _arguments(self) -> dict[str, Any]:
        return dict(
            learning_rate=ADAM[self.settings.family][0],
            buffer_size=self.settings.buffer,
            learning_starts=LEARNING_STARTS,
            batch_size=self.settings.batch,
            gamma=GAMMA,
            target_update_interval=TARGET_UPDATE_INTERVAL,
            max_grad_norm=MAX_GRAD_NORM[self.settings.family],
            policy_kwargs={},  # Adam's eps is that of ADAM by default, or makes no difference to speed
            optimize_memory_usage=True,
            device=self.settings.device,
            seed=0,
        )

    def _make(self, env: VecEnv | gymnasium.Env | None) -> None:
        arguments = self._arguments()
        if env is None:
            env = FakeImageEnv(N_ACTIONS, *SHAPE[1:], n_channels=SHAPE[0], channel_first=True)
        else:
            del arguments["max_grad_norm"]  # the default
        self.model = self.cls("CnnPolicy", env, **arguments)
        self.model.set_logger(Logger(None, []))
        self.watch(self.model.replay_buffer, "sample", "replay")

    def add(self, step: Step) -> None:
        self.model.replay_buffer.add(*step[:-1], [{"TimeLimit.truncated": bool(truncated)} for truncated in step.truncated])

    def step(self) -> None:
        self.model.train(1, self.settings.batch)

    def run(self, n_steps: int) -> None:
        self.model.learn(n_steps, reset_num_timesteps=False)


class SB3DQN(SB3Contender):
    """SB3's DQN, which keeps each observation once: with ``handle_timeout_termination`` off, as that needs both."""

    name = "SB3 DQN"
    cls: Any = DQN

    def _arguments(self) -> dict[str, Any]:
        return {**super()._arguments(), "replay_buffer_kwargs": dict(handle_timeout_termination=False)}


class ContribQRDQNContender(SB3DQN):
    """sb3-contrib's QRDQN."""

    name = "sb3-contrib QRDQN"
    cls: Any = ContribQRDQN

    def _arguments(self) -> dict[str, Any]:
        arguments = super()._arguments()
        arguments["policy_kwargs"].update(n_quantiles=N_QUANTILES)
        return arguments


OURS: dict[str, type[ValueAlgorithm]] = {"rainbow": Rainbow, "iqn": IQN, "qrdqn": QRDQN, "dqn": Rainbow}


class OurContender(SB3Contender):
    """
    This library's algorithm.

    :param settings: what it is made with
    :param env: to be trained in
    :param options: arguments that say how to compute: ``precision``, ``compile``, ``overlap``
    """

    name = "sb3_distrl"

    def __init__(self, settings: Settings, env: Any = None, **options: Any) -> None:
        self.options, self.cls = options, OURS[settings.family]
        self.name = f"sb3_distrl{''.join(f', {option_name(*option)}' for option in options.items())}"
        super().__init__(settings, env)

    def _arguments(self) -> dict[str, Any]:
        known = inspect.signature(self.cls).parameters
        for option in self.options:
            if option not in known:
                raise RuntimeError(f"{self.cls.__name__} has no argument {option} in this version")
        arguments = {**super()._arguments(), **self.options}
        if self.settings.family == "dqn":  # all six off
            arguments.update(double_q=False, prioritized=False, n_steps=1)
            arguments["policy_kwargs"].update(dueling=False, noisy=False, distributional=False)
        if self.settings.family == "rainbow":
            arguments["beta_final"] = BETA
        return arguments

    def _make(self, env: VecEnv | gymnasium.Env | None) -> None:
        super()._make(env)
        if self.model.prioritized:
            self.watch(self.model.replay_buffer, "update_priorities", "priorities")


def option_name(option: str, value: Any) -> str:
    """:return: how an argument is named in the tables"""
    return option if value is True else f"no {option}" if value is False else str(value)


OUR_OPTIONS: tuple[dict[str, Any], ...] = (
    {},
    dict(compile=True),
    dict(precision="bf16"),
    dict(precision="bf16", compile=True),
)


def our_factories(settings: Settings) -> dict[str, Callable[..., Contender]]:
    """
    :param settings: what they are made with
    :return: what makes this library's contenders, by name
    """

    def factory(options: dict[str, Any]) -> Callable[..., Contender]:
        return lambda env=None: OurContender(settings, env, **options)

    names = ["sb3_distrl" + "".join(f", {option_name(*option)}" for option in options.items()) for options in OUR_OPTIONS]
    return {name: factory(options) for name, options in zip(names, OUR_OPTIONS, strict=True)}


def fill(contender: Contender) -> None:
    """Fill the replay buffer, or as much of it as the settings say."""
    stream = Stream(1, 0, EPISODE_LENGTH)
    n_steps = contender.settings.whole if contender.keeps_whole else contender.settings.buffer
    for _ in tqdm(range(n_steps), desc=f"{contender.name}: replay", mininterval=1):
        contender.add(stream.step())


Timings = dict[str, dict[str, list[float]]]  # seconds per step of each turn, by contender and part


def warm_up(contender: Contender) -> None:
    """Do the first gradient steps, which compile and allocate."""
    for _ in range(WARM_UP):
        contender.step()
    contender.synchronize()


def take_turn(contender: Contender, steps: int, training: bool = False) -> dict[str, float]:
    """
    :param contender: whose turn it is
    :param steps: how many gradient steps
    :param training: steps of the environment instead
    :return: mean seconds of a step: "whole", "cpu" (of all threads), and of what the contender watches
    """
    before = dict(contender.seconds)
    start, cpu = time.perf_counter(), time.process_time()
    if training:
        contender.run(steps)
    else:
        for _ in range(steps):
            contender.step()
    contender.synchronize()
    seconds = {"whole": time.perf_counter() - start, "cpu": time.process_time() - cpu}
    seconds.update({part: total - before[part] for part, total in contender.seconds.items()})
    return {part: total / steps for part, total in seconds.items()}


def time_turns(turns: dict[str, Callable[[], dict[str, float]]], rounds: int, title: str) -> Timings:
    """
    Let contenders take turns, in random order.

    :param turns: what takes a turn, by name
    :param rounds: how many each takes
    :param title: of the progress bar
    :return: what the turns returned
    """
    timings: Timings = {name: {} for name in turns}
    rng = np.random.default_rng(0)
    for _ in tqdm(range(rounds), desc=title, unit="round", mininterval=1):
        for name in rng.permutation(list(turns)):
            for part, seconds in turns[name]().items():
                timings[name].setdefault(part, []).append(seconds)
    return timings


def random_batch(batch: int, seed: int = 0) -> tuple[th.Tensor, ...]:
    """
    :param batch: size
    :param seed: seed
    :return: observations and next observations [B, 4, 84, 84] in bytes, actions [B], rewards and bootstraps [B, 1]
    """
    rng = np.random.default_rng(seed)
    obs, next_obs = (th.from_numpy(rng.integers(0, 256, (batch, *SHAPE), np.uint8)) for _ in range(2))
    rewards = th.from_numpy(rng.integers(-1, 2, (batch, 1)).astype(np.float32))
    bootstrap = th.full((batch, 1), GAMMA)
    return obs, next_obs, th.from_numpy(rng.integers(0, N_ACTIONS, batch)), rewards, bootstrap
