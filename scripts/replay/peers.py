"""
The contenders of ``speed.py``: the replay buffers of this library, SB3, cpprb, TorchRL and Tianshou with a common interface,
each with its best setting for stacks of frames.
"""

import importlib
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import torch as th
from gymnasium import spaces
from stable_baselines3.common.buffers import ReplayBuffer

from replay.stream import N_ACTIONS, SHAPE, Step
from sb3_distrl.buffers import PrioritizedReplayBuffer, sum_tree

BATCH = 32
ALPHA, BETA = 0.5, 0.4
OBSERVATION_SPACE = spaces.Box(0, 255, SHAPE, np.uint8)
ACTION_SPACE = spaces.Discrete(N_ACTIONS)

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


def index_factories(capacity: int, priorities: np.ndarray) -> dict[str, Callable[[], Indices]]:
    """
    :param capacity: of all contenders
    :param priorities: with which they are filled, shape [capacity]
    :return: what makes the contenders
    """
    return {
        "sb3_distrl with numba": lambda: OurIndices(capacity, priorities, True),
        "sb3_distrl without numba": lambda: OurIndices(capacity, priorities, False),
        "Tianshou": lambda: TianshouIndices(capacity, priorities),
        "cpprb": lambda: CpprbIndices(capacity, priorities),
        "TorchRL": lambda: TorchRLIndices(capacity, priorities),
    }


# Whole buffers


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
