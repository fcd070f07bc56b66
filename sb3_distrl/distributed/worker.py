"""An actor: it steps environments with its own copy of the networks and sends transitions (Horgan et al. 2018)."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import numpy as np
import torch as th
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.type_aliases import TrainFreq, TrainFrequencyUnit
from stable_baselines3.common.vec_env import VecEnv

from sb3_distrl.buffers import PrioritizedReplayBuffer
from sb3_distrl.buffers.blocks import Block
from sb3_distrl.common.algorithm import ValueAlgorithm
from sb3_distrl.common.generators import random_state, seed_cpu_generators, set_random_state
from sb3_distrl.common.gradient_steps import evaluate, preprocess
from sb3_distrl.distributed.envs import ActorEnvs
from sb3_distrl.distributed.saved_model import SavedModel

CPU = th.device("cpu")

Arrays = dict[str, np.ndarray]


class Weights(NamedTuple):
    """State dicts of both networks, and the number of gradient steps that made them."""

    version: int
    online: Arrays
    target: Arrays


class Episode(NamedTuple):
    """An episode that ended at step ``step`` of a block in environment ``env``, with Monitor's ``info``."""

    step: int
    env: int
    info: dict[str, Any]


class Report(NamedTuple):
    """What an actor sends: a block, the episodes that ended in it, and the version of the weights it acted with."""

    block: Block
    episodes: list[Episode]
    version: int
    first: bool  # since the actor was started


class EpisodesOfBlock(BaseCallback):
    """Collects the episodes that end in a block."""

    def start_block(self) -> None:
        """Forget the episodes of the last block."""
        self.episodes: list[Episode] = []
        self.steps = 0

    def _on_step(self) -> bool:
        for env, (info, done) in enumerate(zip(self.locals["infos"], self.locals["dones"], strict=True)):
            ended: dict[str, Any] = {key: info[key] for key in ("episode", "is_success") if key in info}
            if ended and done:
                self.episodes.append(Episode(self.steps, env, ended))
        self.steps += 1
        return True


class ActorSpec(NamedTuple):
    """What all actors share."""

    model: SavedModel
    envs: ActorEnvs
    random_steps: int  # transitions per actor with random actions, before it uses its network
    epsilons: np.ndarray  # [n_actors, E]
    seed: tuple[int, ...]  # entropy for all actors' seeds


def epsilon_ladder(n_streams: int, epsilon: float, alpha: float) -> np.ndarray:
    """
    Epsilon^(1 + i / (N - 1) alpha) for environment i of N (Horgan et al. 2018, section 4.1).

    A single environment, for which this is 0/0, gets the middle of the ladder, epsilon^(1 + alpha / 2).

    :param n_streams: N, number of environments of all actors
    :param epsilon: the largest one; 0.4 in the paper
    :param alpha: 7 in the paper
    :return: shape [N]
    """
    rungs = np.arange(n_streams) / (n_streams - 1) if n_streams > 1 else np.array([0.5])
    return epsilon ** (1 + rungs * alpha)


class RolloutWorker:
    """
    Steps the environments of one actor, in any process. It makes environments and networks at the first block, so that errors
    there are reported.

    It has its own random generators: an actor in the learner's process does not disturb the learner's, and draws the same
    numbers as in another process.

    :param incarnation: how often the actor was restarted; this changes the seeds, but not the epsilons
    :param steps: transitions sent by earlier incarnations
    """

    def __init__(self, spec: ActorSpec, index: int, incarnation: int = 0, steps: int = 0) -> None:
        self.spec, self.index, self.incarnation, self.steps = spec, index, incarnation, steps
        self.version = -1
        self.env: VecEnv | None = None
        self._random_state: dict[str, Any] | None = None

    def collect(self, weights: Weights | None) -> Report:
        """Collect a block of transitions, with new weights unless they are ``None`` or older than the current ones."""
        first = self._random_state is None
        with self._own_random_state():
            if first:
                self._set_up()
            if weights is not None and weights.version > self.version:
                self._take(weights)
            return Report(self._collect_block(), self.callback.episodes, self.version, first)

    def close(self) -> None:
        """Close the environments."""
        if self.env is not None:
            self.env.close()

    @contextmanager
    def _own_random_state(self) -> Iterator[None]:
        outside = random_state(self.spec.envs.action_space, CPU)
        if self._random_state is not None:
            set_random_state(self._random_state, self.model.action_space, CPU)
        try:
            yield
            self._random_state = random_state(self.model.action_space, CPU)
        finally:
            set_random_state(outside, self.spec.envs.action_space, CPU)

    def _set_up(self) -> None:
        seeds = np.random.SeedSequence([*self.spec.seed, self.index, self.incarnation]).generate_state(3)
        seed_cpu_generators(int(seeds[0]))
        self.env = self.spec.envs.make()
        self.env.seed(int(seeds[1] // 2))
        model = self.spec.model.load()
        assert isinstance(model, ValueAlgorithm) and isinstance(model.replay_buffer, PrioritizedReplayBuffer)
        model.set_env(self.env)
        model.action_space.seed(int(seeds[2]))
        model.exploration_rate = self.spec.epsilons[self.index]
        self.callback = EpisodesOfBlock()
        model._setup_learn(sys.maxsize, self.callback)
        model.num_timesteps = self.steps
        self.model, self.buffer = model, model.replay_buffer
        self.spec = self.spec._replace(model=self.spec.model._replace(file=b""))  # release memory

    def _take(self, weights: Weights) -> None:
        for network, arrays in ((self.model.q_net, weights.online), (self.model.q_net_target, weights.target)):
            for name, tensor in network.state_dict().items():
                tensor.numpy()[...] = arrays[name]
        self.version = weights.version

    def _collect_block(self) -> Block:
        assert self.env is not None
        self.callback.start_block()
        self.buffer.start_block()
        steps = TrainFreq(self.buffer.buffer_size, TrainFrequencyUnit.STEP)
        self.model.collect_rollouts(self.env, self.callback, steps, self.buffer, learning_starts=self.spec.random_steps)
        return self.buffer.block(self._priorities() if self.model.prioritized else None)

    def _priorities(self) -> np.ndarray:
        """:return: the priorities that the algorithm's loss gives the n-step transitions, shape [T, E]"""
        buffer = self.buffer
        indices = np.arange(buffer.size() * buffer.n_envs)
        batch = preprocess(self.model.q_net, buffer.transitions(indices))
        with th.no_grad():
            priorities = evaluate(self.model, batch).priorities
        return priorities.float().numpy().reshape(-1, buffer.n_envs)
