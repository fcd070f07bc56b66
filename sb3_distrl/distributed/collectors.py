"""Where blocks come from: actors in the learner's own process. Those in other processes are in ``ray_collector``."""

import copy
from abc import ABC, abstractmethod
from contextlib import ExitStack

import cloudpickle

from sb3_distrl.distributed.worker import ActorSpec, Report, RolloutWorker, Weights


class Collector(ABC):
    """
    Actors at work.

    :param spec: what all actors share
    :param n_actors: how many
    :param weights: that they begin with
    :param synchronous: collect a block from each actor, in order, with the newest weights, and none meanwhile
    """

    def __init__(self, spec: ActorSpec, n_actors: int, weights: Weights, synchronous: bool) -> None:
        self.spec, self.n_actors, self.synchronous = spec, n_actors, synchronous
        self.version = weights.version
        self.failures = 0  # of actors, so far
        self._send(weights)

    def publish(self, weights: Weights) -> None:
        """
        :param weights: for the blocks from now on
        :raises ValueError: if they are older than those before
        """
        if weights.version < self.version:
            raise ValueError(f"version={weights.version} of weights is older than {self.version}, which actors have.")
        self.version = weights.version
        self._send(weights)

    @abstractmethod
    def _send(self, weights: Weights) -> None:
        """:param weights: for the blocks from now on; the arrays will change"""

    @abstractmethod
    def gather(self, wait: bool) -> list[tuple[int, Report]]:
        """
        :param wait: for one at least, or what there is
        :return: what has come in, with the actors' indices
        """

    @abstractmethod
    def close(self) -> None:
        """End the actors."""


class LocalCollector(Collector):
    """
    Actors in this process, one after the other: for tests, for environments that are faster than what it takes to send their
    frames, and where Ray is not to be had. What an actor raises is raised here.
    """

    def __init__(self, spec: ActorSpec, n_actors: int, weights: Weights, synchronous: bool) -> None:
        super().__init__(spec, n_actors, weights, synchronous)
        pickled = cloudpickle.dumps(spec)  # as for another process: an actor shares nothing with the learner
        self.workers = [RolloutWorker(cloudpickle.loads(pickled), i) for i in range(n_actors)]
        self.turn = 0

    def _send(self, weights: Weights) -> None:
        self.weights = copy.deepcopy(weights)

    def gather(self, wait: bool) -> list[tuple[int, Report]]:
        turns = range(self.n_actors) if self.synchronous else [self.turn]
        self.turn = (self.turn + 1) % self.n_actors
        return [(i, self.workers[i].collect(self.weights)) for i in turns] if wait else []

    def close(self) -> None:
        with ExitStack() as stack:  # closes all, even if one of them raises an exception
            for worker in self.workers:
                stack.callback(worker.close)
