"""
Speed and memory of prioritized replay beside its peers: Tianshou, cpprb, TorchRL and SB3's uniform buffer; on one core.

1. Indices: drawing 32 indices with their weights, and updating 32 priorities, without the transitions. Hot is after
   ten such calls; cold is after reading a large array, see --cold-mb.
2. Whole buffers: adding a vectorised step, sampling 32 transitions of four 84 x 84 frames, updating 32 priorities, and the
   resident memory of a full buffer. Frames are windows on a picture, moved by a random walk; episodes end after about 800
   steps, half of them truncated. What a peer is given is put into its own containers (TensorDict, Batch) before the clock
   starts. Buffers that keep whole observations have a smaller capacity, for all of them to fit into memory at once.
3. One gradient step of Rainbow with its default network, to compare with.

Contenders take turns in every round, in random order; the numbers are medians over rounds. Whether a buffer gives back what
it was given is tried with short episodes: every sampled transition is compared with the added one. Peers that are not
installed are left out: pip install tianshou cpprb torchrl (TorchRL's extension must be built for the installed torch).
"""

import os

os.environ.update(dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS"), "1"))

import argparse
import ctypes
import datetime
import gc
import importlib
import importlib.metadata
import platform
import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import psutil
import torch as th
from gymnasium import spaces
from settings import ROOT, processor
from stable_baselines3.common.buffers import ReplayBuffer
from stable_baselines3.common.envs import FakeImageEnv
from stable_baselines3.common.logger import Logger
from tqdm import tqdm

from sb3_distrl import Rainbow
from sb3_distrl.buffers import PrioritizedReplayBuffer, sum_tree

BATCH = 32
WARM_UP = 10  # draws and updates before the hot ones
ALPHA, BETA = 0.5, 0.4
N_ACTIONS = 6
SHAPE = (4, 84, 84)
OBSERVATION_SPACE = spaces.Box(0, 255, SHAPE, np.uint8)
ACTION_SPACE = spaces.Discrete(N_ACTIONS)
PACKAGES = ("sb3-distrl", "stable-baselines3", "torch", "numpy", "numba", "tianshou", "cpprb", "torchrl", "tensordict")
MAX_DRAW_SHARE, MAX_OPTIMISED_SHARE = 0.01, 0.05  # of a gradient step

Timings = dict[str, list[float]]  # seconds of each round, by what was done


def clock(call: Callable[[], Any]) -> tuple[float, Any]:
    """:return: seconds that ``call`` takes, and what it returns"""
    start = time.perf_counter()
    result = call()
    return time.perf_counter() - start, result


def median(seconds: list[float]) -> float:
    return float(np.median(seconds))


def resident() -> int:
    """:return: bytes of this process in memory, without what was freed and not given back, where that can be helped"""
    gc.collect()
    try:
        ctypes.CDLL("libc.so.6").malloc_trim(0)
    except (OSError, AttributeError):  # not on Linux with glibc
        pass
    return psutil.Process().memory_info().rss


# Indices


class Indices(ABC):
    """Draws indices and updates priorities, and nothing else."""

    name: str

    def prepare(self) -> None:  # noqa: B027
        """Called before anything is timed."""

    @abstractmethod
    def draw(self) -> Any:
        """:return: indices; their weights are computed, too"""

    @abstractmethod
    def update(self, indices: Any, priorities: np.ndarray) -> None: ...


class OurIndices(Indices):
    """What ``PrioritizedReplayBuffer.sample`` does before it gathers transitions, and ``update_priorities``."""

    compiled = staticmethod(sum_tree.compiled)

    def __init__(self, capacity: int, priorities: np.ndarray, numba: bool) -> None:
        if numba and self.compiled() is None:
            raise ImportError("numba is not installed")
        self.name = f"sb3_distrl {'with' if numba else 'without'} numba"
        self.numba = numba
        n_envs = next(n for n in range(1000, 0, -1) if capacity % n == 0)  # fewer steps to fill it with
        space = spaces.Box(0, 255, (1,), np.uint8)
        self.buffer = PrioritizedReplayBuffer(capacity, space, ACTION_SPACE, "cpu", n_envs, alpha=ALPHA, beta=BETA)
        obs, zeros = np.zeros((n_envs, 1), np.uint8), np.zeros(n_envs)
        self.prepare()
        for _ in range(self.buffer.buffer_size):
            self.buffer.add(obs, obs, zeros, zeros, zeros, [{}] * n_envs)
        self.buffer.update_priorities(np.arange(capacity), priorities)

    def prepare(self) -> None:
        sum_tree.compiled = self.compiled if self.numba else lambda: None  # type: ignore[assignment]

    def draw(self) -> np.ndarray:
        indices, masses = self.buffer.tree.draw(np.random.random_sample(BATCH))
        self.weights = (masses / masses.min()) ** -self.buffer.beta
        return indices

    def update(self, indices: np.ndarray, priorities: np.ndarray) -> None:
        self.buffer.update_priorities(indices, priorities)


class TianshouIndices(Indices):
    """``sample_indices`` and ``get_weight``, without normalising by the largest weight; ``update_weight``."""

    name = "Tianshou"

    def __init__(self, capacity: int, priorities: np.ndarray) -> None:
        data = importlib.import_module("tianshou.data")
        self.buffer = data.PrioritizedReplayBuffer(capacity, alpha=ALPHA, beta=BETA)
        self.buffer.add(data.Batch(obs=0, act=0, rew=0.0, terminated=False, truncated=False))
        self.buffer._size = capacity
        self.buffer.update_weight(np.arange(capacity), priorities)

    def draw(self) -> np.ndarray:
        indices = self.buffer.sample_indices(BATCH)
        self.buffer.get_weight(indices)
        return indices

    def update(self, indices: np.ndarray, priorities: np.ndarray) -> None:
        self.buffer.update_weight(indices, priorities)


class CpprbIndices(Indices):
    """``sample`` with one byte of data per transition, as there is no call for indices alone; ``update_priorities``."""

    name = "cpprb"

    def __init__(self, capacity: int, priorities: np.ndarray) -> None:
        cpprb = importlib.import_module("cpprb")
        self.buffer = cpprb.PrioritizedReplayBuffer(capacity, {"a": {"dtype": np.uint8}}, alpha=ALPHA)
        self.buffer.add(a=np.zeros(capacity, np.uint8), priorities=priorities)

    def draw(self) -> np.ndarray:
        return self.buffer.sample(BATCH, BETA)["indexes"]

    def update(self, indices: np.ndarray, priorities: np.ndarray) -> None:
        self.buffer.update_priorities(indices, priorities)


class TorchRLIndices(Indices):
    """``PrioritizedSampler.sample`` and ``update_priority``."""

    name = "TorchRL"

    def __init__(self, capacity: int, priorities: np.ndarray) -> None:
        data = importlib.import_module("torchrl.data")
        self.sampler = data.PrioritizedSampler(capacity, alpha=ALPHA, beta=BETA)
        self.storage = data.LazyTensorStorage(capacity)
        self.storage.set(th.arange(capacity), th.zeros(capacity, dtype=th.uint8))
        self.sampler.update_priority(th.arange(capacity), th.as_tensor(priorities, dtype=th.float32))

    def draw(self) -> th.Tensor:
        return self.sampler.sample(self.storage, BATCH)[0]

    def update(self, indices: th.Tensor, priorities: np.ndarray) -> None:
        self.sampler.update_priority(indices, th.from_numpy(priorities).float())


def installed(factories: dict[str, Callable[[], Any]], notes: list[str]) -> list[Any]:
    """
    :param factories: of contenders, by name
    :param notes: says which are left out
    :return: the contenders that can be made
    """
    made = []
    for name, factory in factories.items():
        try:
            made.append(factory())
        except (ImportError, RuntimeError) as error:  # TorchRL: its extension was built for another version of torch
            note = f"{name} is left out ({str(error).splitlines()[0]}): pip install tianshou cpprb torchrl numba"
            if note not in notes:
                notes.append(note)
    return made


def time_indices(capacity: int, rounds: int, cold_mb: int, notes: list[str]) -> dict[str, Timings]:
    """
    :param capacity: of all contenders, which are full of random priorities
    :param rounds: how often each takes its turn
    :param cold_mb: size of the array that is read to clear the caches
    :param notes: says who is left out
    :return: for each contender, the seconds of "draw hot", "update hot", "draw cold" and "update cold"
    """
    rng = np.random.default_rng(0)
    priorities = rng.random(capacity) + 0.1
    contenders: list[Indices] = installed(
        {
            "sb3_distrl with numba": lambda: OurIndices(capacity, priorities, True),
            "sb3_distrl without numba": lambda: OurIndices(capacity, priorities, False),
            "Tianshou": lambda: TianshouIndices(capacity, priorities),
            "cpprb": lambda: CpprbIndices(capacity, priorities),
            "TorchRL": lambda: TorchRLIndices(capacity, priorities),
        },
        notes,
    )
    junk = np.zeros(cold_mb * 2**20 // 8)
    timings: dict[str, Timings] = {contender.name: {} for contender in contenders}
    for _ in tqdm(range(rounds), desc="indices", unit="round", mininterval=1):
        rng.shuffle(contenders)  # type: ignore[arg-type]
        for contender in contenders:
            new, seconds = rng.random(BATCH) + 0.1, {}
            contender.prepare()
            for _ in range(WARM_UP):
                contender.update(contender.draw(), new)
            seconds["draw hot"], indices = clock(contender.draw)
            seconds["update hot"], _ = clock(lambda: contender.update(indices, new))  # noqa: B023
            junk.sum()
            seconds["draw cold"], indices = clock(contender.draw)
            junk.sum()
            seconds["update cold"], _ = clock(lambda: contender.update(indices, new))  # noqa: B023
            for name, value in seconds.items():
                timings[contender.name].setdefault(name, []).append(value)
    sum_tree.compiled = OurIndices.compiled  # type: ignore[assignment]
    return timings


# Whole buffers


class Step(NamedTuple):
    """One vectorised step, n_envs transitions; ``rewards`` number all transitions."""

    obs: np.ndarray  # [n_envs, 4, 84, 84]
    next_obs: np.ndarray
    actions: np.ndarray  # [n_envs]
    rewards: np.ndarray
    dones: np.ndarray
    truncated: np.ndarray


class Stream:
    """
    Endless steps of stacked frames, padded with zeros where an episode begins.

    :param n_envs: number of environments
    :param seed: seed
    :param episode_length: mean length of an episode
    """

    def __init__(self, n_envs: int, seed: int, episode_length: int) -> None:
        self.n_envs, self.episode_length, self.count = n_envs, episode_length, 0
        self.rng = np.random.default_rng(seed)
        self.picture = self.rng.integers(0, 256, (64, 64), np.uint8).repeat(8, axis=0).repeat(8, axis=1)
        self.places = self.rng.integers(0, 512 - 84, (n_envs, 2))
        self.obs = np.zeros((n_envs, *SHAPE), np.uint8)
        self.obs[:, -1] = self._frames()

    def _frames(self) -> np.ndarray:
        self.places = (self.places + self.rng.integers(1, 5, self.places.shape)) % (512 - 84)
        return np.stack([self.picture[y : y + 84, x : x + 84] for y, x in self.places])

    def step(self) -> Step:
        obs, next_obs = self.obs, np.concatenate([self.obs[:, 1:], self._frames()[:, None]], axis=1)
        dones = self.rng.random(self.n_envs) < 1 / self.episode_length
        self.obs = next_obs
        if dones.any():
            self.obs = next_obs.copy()
            self.obs[dones, :-1] = 0
            self.obs[dones, -1] = self._frames()[dones]
        rewards = np.arange(self.count, self.count + self.n_envs, dtype=np.float32)
        self.count += self.n_envs
        actions = self.rng.integers(0, N_ACTIONS, self.n_envs)
        return Step(obs, next_obs, actions, rewards, dones, dones & (self.rng.random(self.n_envs) < 0.5))


class Contents(NamedTuple):
    """What was sampled, in our layout."""

    obs: np.ndarray  # [B, 4, 84, 84]
    next_obs: np.ndarray
    rewards: np.ndarray  # [B]
    terminated: np.ndarray


class Buffer(ABC):
    """
    A replay buffer with its best setting for frame stacks.

    :param capacity: transitions over all environments
    :param n_envs: number of environments
    """

    name: str
    prioritized = True
    n_step: str  # whether it has n-step returns, as its documentation says

    def __init__(self, capacity: int, n_envs: int) -> None:
        self.capacity, self.n_envs = capacity, n_envs

    @abstractmethod
    def prepare(self, step: Step) -> Any:
        """:return: the step in the buffer's containers; not timed"""

    @abstractmethod
    def add(self, prepared: Any) -> None: ...

    @abstractmethod
    def sample(self) -> Any: ...

    @abstractmethod
    def update(self, batch: Any, priorities: np.ndarray) -> None: ...

    @abstractmethod
    def contents(self, batch: Any) -> Contents: ...


class SB3Buffer(Buffer):
    """SB3's buffer."""

    n_step = "another class, without optimize_memory_usage"
    prioritized = False

    def __init__(self, capacity: int, n_envs: int, optimise: bool = False, **kwargs: Any) -> None:
        super().__init__(capacity, n_envs)
        self.name = self._name(optimise, **kwargs)
        self.buffer = self._make(optimise, **kwargs)

    def _name(self, optimise: bool, **kwargs: Any) -> str:
        return "SB3 ReplayBuffer" + ", optimize_memory_usage" * optimise

    def _make(self, optimise: bool, **kwargs: Any) -> ReplayBuffer:
        arguments = (self.capacity, OBSERVATION_SPACE, ACTION_SPACE, "cpu", self.n_envs, optimise)
        return ReplayBuffer(*arguments, handle_timeout_termination=not optimise)

    def prepare(self, step: Step) -> tuple[Any, ...]:
        return *step[:-1], [{"TimeLimit.truncated": bool(truncated)} for truncated in step.truncated]

    def add(self, prepared: tuple[Any, ...]) -> None:
        self.buffer.add(*prepared)

    def sample(self) -> Any:
        return self.buffer.sample(BATCH)

    def update(self, batch: Any, priorities: np.ndarray) -> None:
        raise NotImplementedError("It has no priorities.")

    def contents(self, batch: Any) -> Contents:
        tensors = batch.observations, batch.next_observations, batch.rewards.flatten(), batch.dones.flatten()
        return Contents(*(tensor.numpy() for tensor in tensors))


class OurBuffer(SB3Buffer):
    """This library's buffer."""

    n_step = "yes"
    prioritized = True

    def _name(self, optimise: bool, **kwargs: Any) -> str:
        settings = ["optimize_memory_usage"] * optimise + [f"{name}={value}" for name, value in kwargs.items()]
        return ", ".join(["sb3_distrl", *(settings or ["plain"])])

    def _make(self, optimise: bool, **kwargs: Any) -> ReplayBuffer:
        arguments = (self.capacity, OBSERVATION_SPACE, ACTION_SPACE, "cpu", self.n_envs, optimise)
        return PrioritizedReplayBuffer(*arguments, alpha=ALPHA, beta=BETA, **kwargs)

    def update(self, batch: Any, priorities: np.ndarray) -> None:
        assert isinstance(self.buffer, PrioritizedReplayBuffer)
        self.buffer.update_priorities(batch.indices, priorities)


class CpprbBuffer(Buffer):
    """
    With ``next_of`` and ``stack_compress`` for one environment; these need the steps of one environment in a row, and what
    comes out is wrong where several take turns, so that those are kept whole.
    """

    def __init__(self, capacity: int, n_envs: int) -> None:
        super().__init__(capacity, n_envs)
        cpprb = importlib.import_module("cpprb")
        compress = n_envs == 1
        self.n_step = "not with next_of" if compress else "yes"
        self.name = "cpprb, next_of and stack_compress" if compress else "cpprb, whole observations"
        obs = {"shape": (84, 84, 4), "dtype": np.uint8}
        env = {"obs": obs, "act": {"dtype": np.int64}, "rew": {}, "done": {}}
        kwargs = dict(next_of="obs", stack_compress="obs") if compress else {}
        if not compress:
            env["next_obs"] = obs
        self.buffer = cpprb.PrioritizedReplayBuffer(capacity, env, alpha=ALPHA, **kwargs)

    def prepare(self, step: Step) -> dict[str, Any]:
        terminated = step.dones & ~step.truncated
        obs, next_obs = (np.ascontiguousarray(np.moveaxis(part, 1, -1)) for part in (step.obs, step.next_obs))
        values = dict(obs=obs, next_obs=next_obs, act=step.actions, rew=step.rewards, done=terminated)
        return dict(ended=bool(step.dones.any()), values=values)

    def add(self, prepared: dict[str, Any]) -> None:
        self.buffer.add(**prepared["values"])
        if self.n_envs == 1 and prepared["ended"]:
            self.buffer.on_episode_end()

    def sample(self) -> Any:
        return self.buffer.sample(BATCH, BETA)

    def update(self, batch: Any, priorities: np.ndarray) -> None:
        self.buffer.update_priorities(batch["indexes"], priorities)

    def contents(self, batch: Any) -> Contents:
        obs, next_obs = (np.moveaxis(batch[key], -1, 1) for key in ("obs", "next_obs"))
        return Contents(obs, next_obs, batch["rew"][:, 0], batch["done"][:, 0])


class TorchRLBuffer(Buffer):
    """``TensorDictReplayBuffer`` with ``LazyTensorStorage``."""

    name = "TorchRL, whole observations"
    n_step = "yes, as a transform"

    def __init__(self, capacity: int, n_envs: int) -> None:
        super().__init__(capacity, n_envs)
        data = importlib.import_module("torchrl.data")
        self.make = importlib.import_module("tensordict").TensorDict
        sampler = data.PrioritizedSampler(capacity, alpha=ALPHA, beta=BETA)
        self.buffer = data.TensorDictReplayBuffer(
            storage=data.LazyTensorStorage(capacity), sampler=sampler, priority_key="td_error", batch_size=BATCH
        )

    def prepare(self, step: Step) -> Any:
        terminated = th.from_numpy(step.dones & ~step.truncated)
        next_step = dict(obs=th.from_numpy(step.next_obs), reward=th.from_numpy(step.rewards), terminated=terminated)
        values = dict(obs=th.from_numpy(step.obs), action=th.from_numpy(step.actions), next=next_step)
        return self.make(values, [self.n_envs])

    def add(self, prepared: Any) -> None:
        self.buffer.extend(prepared)

    def sample(self) -> Any:
        return self.buffer.sample()

    def update(self, batch: Any, priorities: np.ndarray) -> None:
        self.buffer.update_priority(batch["index"], th.from_numpy(priorities).float())

    def contents(self, batch: Any) -> Contents:
        keys = ("obs", ("next", "obs"), ("next", "reward"), ("next", "terminated"))
        return Contents(*(batch[key].numpy() for key in keys))


class TianshouBuffer(Buffer):
    """With ``stack_num=4``, ``save_only_last_obs`` and ``ignore_obs_next``; n-step returns are its algorithms' work."""

    name = "Tianshou, stack_num=4, save_only_last_obs, ignore_obs_next"
    n_step = "in its algorithms"

    def __init__(self, capacity: int, n_envs: int) -> None:
        super().__init__(capacity, n_envs)
        data = importlib.import_module("tianshou.data")
        self.make = data.Batch
        settings = dict(alpha=ALPHA, beta=BETA, stack_num=4, save_only_last_obs=True, ignore_obs_next=True)
        if n_envs == 1:
            self.buffer = data.PrioritizedReplayBuffer(capacity, **settings)
        else:
            self.buffer = data.PrioritizedVectorReplayBuffer(capacity, n_envs, **settings)

    def prepare(self, step: Step) -> Any:
        terminated = step.dones & ~step.truncated
        values = dict(obs=step.obs, act=step.actions, rew=step.rewards, terminated=terminated, truncated=step.truncated)
        return self.make(**(values if self.n_envs > 1 else {key: value[0] for key, value in values.items()}))

    def add(self, prepared: Any) -> None:
        self.buffer.add(prepared)

    def sample(self) -> Any:
        return self.buffer.sample(BATCH)

    def update(self, batch: Any, priorities: np.ndarray) -> None:
        self.buffer.update_weight(batch[1], priorities)

    def contents(self, batch: Any) -> Contents:
        values = batch[0]
        return Contents(values.obs, values.obs_next, values.rew, values.terminated)


def buffer_factories(capacity: int, whole_capacity: int, n_envs: int) -> dict[str, Callable[[], Buffer]]:
    """
    :param capacity: of buffers that keep each frame once
    :param whole_capacity: of the others
    :param n_envs: number of environments
    :return: what makes the contenders
    """
    return {
        "sb3_distrl, optimised": lambda: OurBuffer(capacity, n_envs, True),
        "sb3_distrl, optimised, n-step": lambda: OurBuffer(capacity, n_envs, True, n_steps=3),
        "sb3_distrl": lambda: OurBuffer(whole_capacity, n_envs),
        "SB3": lambda: SB3Buffer(whole_capacity, n_envs),
        "SB3, optimised": lambda: SB3Buffer(whole_capacity, n_envs, True),
        "cpprb": lambda: CpprbBuffer(capacity if n_envs == 1 else whole_capacity, n_envs),
        "TorchRL": lambda: TorchRLBuffer(whole_capacity, n_envs),
        "Tianshou": lambda: TianshouBuffer(capacity, n_envs),
    }


class Row(NamedTuple):
    """What was measured of a buffer."""

    buffer: str
    capacity: int
    prioritized: bool
    n_step: str
    bytes: float  # per transition
    timings: Timings  # "add", "sample" and, with priorities, "update"
    right: dict[str, str]  # of Right


RIGHT = ("observations", "next observations", "final ones of truncated episodes", "truncated, not terminated")


def check_contents(buffer: Buffer) -> dict[str, str]:
    """
    Add short episodes and compare what is sampled.

    :param buffer: an empty one; not with n-step returns
    :return: for each of ``RIGHT``, "yes" or how many of the sampled transitions are right
    """
    stream, added = Stream(buffer.n_envs, 1, 30), {}
    for _ in range(buffer.capacity * 3 // 2 // buffer.n_envs):
        step = stream.step()
        buffer.add(buffer.prepare(step))
        for i, number in enumerate(step.rewards):
            added[int(number)] = tuple(part[i] for part in step)
    checks: dict[str, list[bool]] = {name: [] for name in RIGHT}
    for _ in range(60):
        for obs, next_obs, number, terminated in zip(*buffer.contents(buffer.sample()), strict=True):
            true_obs, true_next_obs, _, _, done, truncated = added[int(number)]
            checks[RIGHT[0]].append(np.array_equal(obs, true_obs))
            if not done:
                checks[RIGHT[1]].append(np.array_equal(next_obs, true_next_obs))
            if truncated:
                checks[RIGHT[2]].append(np.array_equal(next_obs, true_next_obs))
                checks[RIGHT[3]].append(not terminated)
    return {name: "yes" if all(right) else f"{np.mean(right):.0%}" for name, right in checks.items()}


def time_buffers(capacity: int, whole_capacity: int, n_envs: int, rounds: int, notes: list[str]) -> list[Row]:
    """
    :param capacity: of buffers that keep each frame once
    :param whole_capacity: of the others
    :param n_envs: number of environments
    :param rounds: how often each takes its turn
    :param notes: says who is left out
    :return: what was measured of each
    """
    rows = []
    contenders: list[tuple[Buffer, Stream]] = []
    for factory in buffer_factories(capacity, whole_capacity, n_envs).values():
        before, stream = resident(), Stream(n_envs, 0, 800)
        made = installed({"": factory}, [])
        for buffer in made:
            for _ in tqdm(range(int(1.05 * buffer.capacity) // n_envs), desc=buffer.name, unit="step", mininterval=1):
                buffer.add(buffer.prepare(stream.step()))
            size = (resident() - before) / buffer.capacity
            contenders.append((buffer, stream))
            rows.append(Row(buffer.name, buffer.capacity, buffer.prioritized, buffer.n_step, size, {}, {}))
    rng = np.random.default_rng(0)
    for _ in tqdm(range(rounds), desc=f"{n_envs} environments", unit="round", mininterval=1):
        for place in rng.permutation(len(rows)):
            (buffer, stream), row = contenders[place], rows[place]
            prepared, priorities = buffer.prepare(stream.step()), rng.random(BATCH) + 0.1
            row.timings.setdefault("add", []).append(clock(lambda: buffer.add(prepared))[0])  # noqa: B023
            seconds, batch = clock(buffer.sample)
            row.timings.setdefault("sample", []).append(seconds)
            if buffer.prioritized:
                seconds, _ = clock(lambda: buffer.update(batch, priorities))  # noqa: B023
                row.timings.setdefault("update", []).append(seconds)
    for small, row in zip(installed(buffer_factories(400, 400, n_envs), notes), rows, strict=True):
        if "n_steps" not in row.buffer:
            row.right.update(check_contents(small))
    return rows


# The gradient step


def time_gradient_steps(rounds: int) -> list[float]:
    """
    :param rounds: number of gradient steps
    :return: seconds of each: Rainbow with its default network and a batch of 32 on one core, without the sampling
    """
    env = FakeImageEnv(N_ACTIONS, *SHAPE[1:], n_channels=SHAPE[0], channel_first=True)
    model = Rainbow("CnnPolicy", env, buffer_size=1000, batch_size=BATCH, seed=0, device="cpu")
    model.set_logger(Logger(None, []))
    model.policy.set_training_mode(True)
    stream, seconds = Stream(1, 0, 800), []
    buffer = model.replay_buffer
    assert buffer is not None
    for _ in range(500):
        step = stream.step()
        buffer.add(*step[:-1], [{}])
    for _ in tqdm(range(rounds + 2), desc="gradient steps", mininterval=1):
        batch = model._sample(BATCH)
        seconds.append(clock(lambda: model._gradient_step(batch))[0])  # noqa: B023
    return seconds[2:]


# Report


def spread(seconds: list[float], unit: float) -> str:
    """:return: the median and the quartiles, in units of so many seconds"""
    low, middle, high = np.percentile(seconds, [25, 50, 75]) / unit
    return f"{middle:.3g} ({low:.3g}..{high:.3g})"


def index_table(timings: dict[str, Timings]) -> str:
    """:return: a markdown table with a row for each contender"""
    columns = ("draw hot", "update hot", "draw cold", "update cold")
    sums = {
        name: [median(t[f"draw {heat}"]) + median(t[f"update {heat}"]) for heat in ("hot", "cold")]
        for name, t in timings.items()
    }
    ours = next(iter(sums.values()))
    text = f"| | {', us | '.join(columns)}, us | sum hot, us | sum cold, us | hot / ours | cold / ours |\n|---|{'---:|' * 8}"
    for name, t in timings.items():
        cells = [spread(t[column], 1e-6) for column in columns] + [f"{value * 1e6:.1f}" for value in sums[name]]
        cells += [f"{value / our:.2f}" for value, our in zip(sums[name], ours, strict=True)]
        text += f"\n| {name} | {' | '.join(cells)} |"
    return text


def buffer_table(rows: list[Row]) -> str:
    """:return: a markdown table with a row for each buffer"""
    text = f"| | capacity | bytes per transition | add a step, ms | sample 32, ms | update 32, ms |\n|---|{'---:|' * 5}"
    for row in rows:
        cells = [f"{row.capacity:,}", f"{row.bytes:,.0f}"]
        cells += [spread(row.timings[what], 1e-3) if what in row.timings else "-" for what in ("add", "sample", "update")]
        text += f"\n| {row.buffer} | {' | '.join(cells)} |"
    return text


def right_table(rows: list[Row]) -> str:
    """:return: a markdown table of what each buffer has, and of what it gives back as it was given"""
    text = f"| | prioritized | n-step returns | {' | '.join(RIGHT)} |\n|---|{'---|' * (2 + len(RIGHT))}"
    for row in rows:
        if row.right:
            cells = ["yes" if row.prioritized else "no", row.n_step, *row.right.values()]
            text += f"\n| {row.buffer} | {' | '.join(cells)} |"
    return text


def shares(timings: dict[str, Timings], rows: list[Row], gradient: float) -> list[str]:
    """
    :param timings: of the indices
    :param rows: of one environment
    :param gradient: median seconds of a gradient step
    :return: what replay costs in terms of gradient steps, a line for each
    """
    lines = [f"- A gradient step of Rainbow takes {gradient * 1e3:.1f} ms."]
    for name, t in timings.items():
        if name.startswith("sb3_distrl"):
            hot, cold = ((median(t[f"draw {heat}"]) + median(t[f"update {heat}"])) / gradient for heat in ("hot", "cold"))
            verdict = f"{'at most' if cold <= MAX_DRAW_SHARE else 'more than'} {MAX_DRAW_SHARE:.0%}"
            lines.append(f"- {name}: drawing and updating 32 takes {hot:.2%} of it hot, {cold:.2%} cold: {verdict}.")
    costs = {row.buffer: median(row.timings["sample"]) + 4 * median(row.timings["add"]) for row in rows}
    more = (costs["sb3_distrl, optimize_memory_usage"] - costs["sb3_distrl, plain"]) / gradient
    verdict = "under" if more < MAX_OPTIMISED_SHARE else "not under"
    lines.append(
        f"- Sampling 32 and adding 4 steps of one environment take {more:+.2%} of it more with optimize_memory_usage than "
        f"without: {verdict} {MAX_OPTIMISED_SHARE:.0%}."
    )
    return lines


def versions() -> str:
    """:return: one line with the versions of what is installed"""
    found = []
    for package in PACKAGES:
        try:
            found.append(f"{package} {importlib.metadata.version(package)}")
        except importlib.metadata.PackageNotFoundError:
            found.append(f"no {package}")
    return f"Python {platform.python_version()}, {', '.join(found)}"


def main() -> None:
    parser = argparse.ArgumentParser(description="Speed and memory of prioritized replay beside its peers, on one core.")
    parser.add_argument("--index-capacity", type=int, default=1_000_000)
    parser.add_argument("--capacity", type=int, default=100_000, help="of buffers that keep each frame once")
    parser.add_argument("--whole-capacity", type=int, default=30_000, help="of buffers that keep whole observations")
    parser.add_argument("--rounds", type=int, default=200)
    parser.add_argument("--gradient-steps", type=int, default=30)
    parser.add_argument("--cold-mb", type=int, default=256, help="size of what is read to clear the caches")
    parser.add_argument("--note", default="", help="a line for the results")
    parser.add_argument("--output", type=Path, default=ROOT / "scripts" / "results" / "replay_speed.md")
    args = parser.parse_args()

    th.set_num_threads(1)
    np.random.seed(0)
    start, notes = time.perf_counter(), [args.note] if args.note else []
    timings = time_indices(args.index_capacity, args.rounds, args.cold_mb, notes)
    gc.collect()
    one, eight = (time_buffers(args.capacity, args.whole_capacity, n_envs, args.rounds, notes) for n_envs in (1, 8))
    gradient_steps = time_gradient_steps(args.gradient_steps)

    text = f"""# Speed and memory of prioritized replay

Written by `scripts/replay_speed.py`, whose docstring says what is measured and how. Numbers are medians (with quartiles) of
{args.rounds} rounds in which the contenders take turns in random order; the seed of all streams is 0.

- {versions()}
- {processor()}, one thread; {datetime.date.today()}; {(time.perf_counter() - start) / 60:.0f} minutes
{"".join(f"- {note}{chr(10)}" for note in notes)}
## Indices

32 of {args.index_capacity:,} transitions with random priorities; cold: after reading {args.cold_mb} MiB.

{index_table(timings)}

## One environment

{buffer_table(one)}

## Eight environments

A step adds eight transitions.

{buffer_table(eight)}

## What they give back

Whether the sampled transitions of short episodes, with stacks padded by zeros, are to the bit what was added, or which share
of them is; with one environment and with eight. Tianshou, with these settings, pads stacks by repeating the first frame, and
takes an episode's last observation for its final one; SB3, with optimize_memory_usage, takes the first one of the next.

{right_table(one)}

{right_table(eight)}

## Beside a gradient step

{chr(10).join(shares(timings, one, median(gradient_steps)))}
- Quartiles of {args.gradient_steps} gradient steps, ms: {spread(gradient_steps, 1e-3)}
"""
    args.output.parent.mkdir(parents=True, exist_ok=True)
    args.output.write_text(text)
    print(text)


if __name__ == "__main__":
    main()
