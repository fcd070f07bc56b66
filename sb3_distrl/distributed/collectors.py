"""How the learner gets blocks: the interface, and actors in its own process; ``ray_collector`` has those on Ray."""

import copy
from abc import ABC, abstractmethod
from contextlib import ExitStack

import cloudpickle

from sb3_distrl.distributed.worker import ActorSpec, Report, RolloutWorker, Weights


class Collector(ABC):
    """Running actors; with ``synchronous``, each sends one block per request, in order and with the newest weights."""

    def __init__(self, spec: ActorSpec, n_actors: int, weights: Weights, synchronous: bool) -> None:
        self.spec, self.n_actors, self.synchronous = spec, n_actors, synchronous
        self.version = weights.version
        self.failures = 0  # of all actors so far
        self._send(weights)

    def publish(self, weights: Weights) -> None:
        """Use these weights, which must not be older than the current ones, for future blocks."""
        if weights.version < self.version:
            raise ValueError(f"version={weights.version} of weights is older than {self.version}, which actors have.")
        self.version = weights.version
        self._send(weights)

    @abstractmethod
    def _send(self, weights: Weights) -> None:
        """Send weights to the actors, or a copy: the learner goes on changing the arrays."""

    @abstractmethod
    def gather(self, wait: bool) -> list[tuple[int, Report]]:
        """:return: reports with the indices of their actors: at least one with ``wait``, else those that have arrived"""

    @abstractmethod
    def close(self) -> None:
        """Stop the actors."""


class LocalCollector(Collector):
    """
    Actors in this process, taking turns: for tests, for environments that are faster than sending their frames, and where Ray
    is not available. Exceptions of actors are raised here.
    """

    def __init__(self, spec: ActorSpec, n_actors: int, weights: Weights, synchronous: bool) -> None:
        super().__init__(spec, n_actors, weights, synchronous)
        pickled = cloudpickle.dumps(spec)  # as for another process, so that actors share nothing with the learner
        self.workers = [RolloutWorker(cloudpickle.loads(pickled), i) for i in range(n_actors)]
        self.turn = 0

    def _send(self, weights: Weights) -> None:
        self.weights = copy.deepcopy(weights)

    def gather(self, wait: bool) -> list[tuple[int, Report]]:
        turns = range(self.n_actors) if self.synchronous else [self.turn]
        self.turn = (self.turn + 1) % self.n_actors
        return [(i, self.workers[i].collect(self.weights)) for i in turns] if wait else []

    def close(self) -> None:
        with ExitStack() as stack:  # closes all even if one raises
            for worker in self.workers:
                stack.callback(worker.close)
