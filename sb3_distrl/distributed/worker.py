"""An actor: it steps environments with its own copy of the networks, and sends what it saw (Horgan et al. 2018)."""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import numpy as np
import torch as th
from stable_baselines3.common.type_aliases import TrainFreq, TrainFrequencyUnit
from stable_baselines3.common.vec_env import VecEnv

from sb3_distrl.buffers import PrioritizedReplayBuffer
from sb3_distrl.buffers.blocks import Block
from sb3_distrl.common.algorithm import ValueAlgorithm
from sb3_distrl.common.generators import random_state, seed_cpu_generators, set_random_state

CPU = th.device("cpu")  # where actors are

Arrays = dict[str, np.ndarray]


class Weights(NamedTuple):
    """
    Parameters of the networks.

    :param version: gradient steps before them
    :param online: of the online network, by name
    :param target: of the target network
    """

    version: int
    online: Arrays
    target: Arrays


class Episode(NamedTuple):
    """An episode that ended at step ``step`` of a block in environment ``env``; ``info`` has what SB3's Monitor says of it."""

    step: int
    env: int
    info: dict[str, Any]


class Report(NamedTuple):
    """
    What an actor sends.

    :param block: transitions of all its environments
    :param episodes: that ended in it
    :param version: of the weights that it acted with
    :param first: whether it is the first since the actor was started
    """

    block: Block
    episodes: list[Episode]
    version: int
    first: bool


class ActorModel(ValueAlgorithm):
    """An algorithm that acts with the weights it is given: no schedule, no update of the target network."""

    episodes: list[Episode]

    def _on_step(self) -> None: ...

    def _update_info_buffer(self, infos: list[dict[str, Any]], dones: np.ndarray | None = None) -> None:
        for env, info in enumerate(infos):
            ended: dict[str, Any] = {key: info[key] for key in ("episode", "is_success") if key in info}
            if ended and (dones is None or dones[env]):
                self.episodes.append(Episode(self.replay_buffer.size(), env, ended))  # type: ignore[union-attr]


class ActorSpec(NamedTuple):
    """
    What an actor needs to know.

    :param algorithm: class of the algorithm
    :param state: its attributes, without networks and buffer
    :param make_envs: makes the environments
    :param block_steps: T, steps of each environment in a block
    :param random_steps: transitions with random actions before the actor asks its network
    :param epsilons: of all actors' environments, shape [n_actors, E]
    :param seed: what the seeds of all actors are made from
    """

    algorithm: type[ValueAlgorithm]
    state: dict[str, Any]
    make_envs: Callable[[], VecEnv]
    block_steps: int
    random_steps: int
    epsilons: np.ndarray
    seed: tuple[int, ...]


def epsilon_ladder(n_streams: int, epsilon: float, alpha: float) -> np.ndarray:
    """
    epsilon^(1 + i / (N - 1) alpha) for environment i of N (Horgan et al. 2018, section 4.1).

    :param n_streams: N, environments of all actors
    :param epsilon: the largest; the paper's is 0.4
    :param alpha: the paper's is 7
    :return: shape [N]
    """
    return epsilon ** (1 + np.arange(n_streams) / max(n_streams - 1, 1) * alpha)


class RolloutWorker:
    """
    Steps the environments of one actor, in whatever process it is. Environments and networks are made at the first block, so
    that what goes wrong there can be reported.

    Its random numbers are its own: an actor in the learner's process leaves the learner's alone, and draws the same as one
    in another process.

    :param spec: what all actors share
    :param index: of the actor
    :param incarnation: how often it was started before; each one has other seeds and the same epsilons
    :param steps: transitions that it has sent before
    """

    def __init__(self, spec: ActorSpec, index: int, incarnation: int = 0, steps: int = 0) -> None:
        self.spec, self.index, self.incarnation, self.steps = spec, index, incarnation, steps
        self.version = -1
        self._random_state: dict[str, Any] | None = None

    def collect(self, weights: Weights | None) -> Report:
        """
        :param weights: to act with; ``None`` keeps those that there are, and older ones than these are ignored
        :return: the next block of transitions
        """
        first = self._random_state is None
        with self._own_random_state():
            if first:
                self._set_up()
            if weights is not None and weights.version > self.version:
                self._take(weights)
            return Report(self._collect_block(), self.model.episodes, self.version, first)

    def close(self) -> None:
        """Close the environments."""
        if self._random_state is not None:
            self.env.close()

    @contextmanager
    def _own_random_state(self) -> Iterator[None]:
        outside = random_state(self.spec.state["action_space"], CPU)
        if self._random_state is not None:
            set_random_state(self._random_state, self.model.action_space, CPU)
        try:
            yield
            self._random_state = random_state(self.model.action_space, CPU)
        finally:
            set_random_state(outside, self.spec.state["action_space"], CPU)

    def _set_up(self) -> None:
        seeds = np.random.SeedSequence([*self.spec.seed, self.index, self.incarnation]).generate_state(3)
        seed_cpu_generators(int(seeds[0]))
        self.env = self.spec.make_envs()
        self.env.seed(int(seeds[1] // 2))
        cls = type("Actor" + self.spec.algorithm.__name__, (ActorModel, self.spec.algorithm), {})
        model = cls(policy=self.spec.state["policy_class"], env=self.env, device=CPU, _init_setup_model=False)
        vars(model).update(self.spec.state)
        vars(model).update(
            n_envs=self.env.num_envs,
            buffer_size=self.spec.block_steps * self.env.num_envs,
            action_space=self.env.action_space,
            exploration_rate=self.spec.epsilons[self.index],
        )
        model.action_space.seed(int(seeds[2]))
        model._setup_model()
        _, self.callback = model._setup_learn(sys.maxsize)
        model.num_timesteps = self.steps
        self.model: ActorModel = model

    def _take(self, weights: Weights) -> None:
        for network, arrays in ((self.model.q_net, weights.online), (self.model.q_net_target, weights.target)):
            for name, tensor in network.state_dict().items():
                tensor.numpy()[...] = arrays[name]
        self.version = weights.version

    def _collect_block(self) -> Block:
        model, buffer = self.model, self.model.replay_buffer
        assert isinstance(buffer, PrioritizedReplayBuffer)
        model.episodes = []
        buffer.start_block()
        steps = TrainFreq(self.spec.block_steps, TrainFrequencyUnit.STEP)
        model.collect_rollouts(self.env, self.callback, steps, buffer, learning_starts=self.spec.random_steps)
        return buffer.block(self._priorities(buffer) if model.prioritized else None)

    def _priorities(self, buffer: PrioritizedReplayBuffer) -> np.ndarray:
        """:return: what the algorithm's loss says of the n-step transitions, as at their first sampling, shape [T, E]"""
        indices = np.arange(buffer.size() * buffer.n_envs)
        batch = self.model._preprocessed(buffer._n_step_samples(indices, np.ones(len(indices)), None))
        with th.no_grad():
            priorities = self.model._evaluate(batch).priorities
        return priorities.numpy().reshape(-1, buffer.n_envs)
