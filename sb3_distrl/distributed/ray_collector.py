"""Actors as Ray processes, and their supervision."""

import logging
import time
from collections import deque
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

import ray
import torch as th

from sb3_distrl.distributed.cluster import check_room, connection
from sb3_distrl.distributed.collectors import Collector
from sb3_distrl.distributed.worker import ActorSpec, Report, RolloutWorker, Weights

IN_FLIGHT = 2  # blocks requested of an actor at a time, so that it does not wait for the learner
POLL = 1.0  # seconds between checks for actors that hang
CLOSE_TIMEOUT = 5.0  # seconds for actors to finish their blocks and close their environments before they are killed

logger = logging.getLogger(__name__)


class RemoteWorker(RolloutWorker):
    """A worker in a process of its own."""

    def __init__(self, *args: Any) -> None:
        th.set_num_threads(1)
        super().__init__(*args)


class Supervised:
    """An actor with its pending requests."""

    def __init__(self, index: int) -> None:
        self.index, self.incarnation, self.steps = index, -1, 0

    def start(self, spec: ray.ObjectRef, cpus: float) -> None:
        """Start the actor, or a new one in its place; answers to earlier requests are dropped."""
        self.incarnation += 1
        self.version = -1  # of the weights sent last
        self.pending: deque[ray.ObjectRef] = deque()
        options = dict(num_cpus=cpus, max_restarts=0, max_task_retries=0)
        remote: Any = ray.remote(RemoteWorker).options(**options)
        self.handle = remote.remote(spec, self.index, self.incarnation, self.steps)
        self.placed = self.handle.__ray_ready__.remote()  # without a result as long as the actor waits for resources
        self.heard: float | None = None  # time of the last sign of life, in seconds

    def ask(self, version: int, weights: ray.ObjectRef) -> None:
        """Request a block with these weights, which are sent only if the actor has older ones."""
        if not self.pending:  # the actor was idle, so its silence does not count
            self.heard = self.heard and time.monotonic()
        self.pending.append(self.handle.collect.remote(weights if version > self.version else None))
        self.version = version

    def close(self) -> ray.ObjectRef:
        """:return: reference that is ready when the actor has finished its block and closed its environments"""
        for ref in self.pending:
            ray.cancel(ref)
        return self.handle.close.remote()

    def has_place(self) -> bool:
        """:return: whether Ray has started the actor"""
        return bool(ray.wait([self.placed], timeout=0)[0])

    def silent_for(self) -> float:
        """:return: seconds since the last sign of life; 0 until Ray has started the actor"""
        if self.heard is None and self.has_place():
            self.heard = time.monotonic()
        return 0.0 if self.heard is None else time.monotonic() - self.heard


class RayCollector(Collector):
    """
    Actors as Ray processes. This class, not Ray, restarts them, with new seeds, and gives up if they fail too often.

    :param check: raises a ValueError for an invalid report; for the other arguments see ``ApeX``
    :raises ValueError: if Ray cannot be reached, or has too few CPUs for the actors
    """

    def __init__(
        self,
        spec: ActorSpec,
        n_actors: int,
        weights: Weights,
        synchronous: bool,
        *,
        check: Callable[[Report], None],
        address: str | None,
        cpus_per_actor: float,
        max_failures: int | None,
        failure_window: float,
        hang_timeout: float,
        stall_timeout: float,
    ) -> None:
        self.check, self.cpus_per_actor = check, cpus_per_actor
        self.max_failures = max(5, 2 * n_actors) if max_failures is None else max_failures
        self.failure_window = failure_window
        self.hang_timeout, self.stall_timeout = hang_timeout, stall_timeout
        self.failed_at: deque[float] = deque()
        self.actors: list[Supervised] = []
        self.ray = ExitStack()
        self.ray.enter_context(connection(address))
        try:
            check_room(n_actors, cpus_per_actor)
            super().__init__(spec, n_actors, weights, synchronous)
            self.spec_ref = ray.put(spec)
            for index in range(n_actors):
                self.actors.append(Supervised(index))
                self._start(self.actors[-1])
        except BaseException:
            self.close()
            raise
        self.last_block = self.looked = time.monotonic()

    def _send(self, weights: Weights) -> None:
        self.weights_ref = ray.put(weights)

    def _start(self, actor: Supervised) -> None:
        actor.start(self.spec_ref, self.cpus_per_actor)
        if not self.synchronous:
            for _ in range(IN_FLIGHT):
                actor.ask(self.version, self.weights_ref)

    def gather(self, wait: bool) -> list[tuple[int, Report]]:
        if self.synchronous:
            return self._gather_all() if wait else []
        reports: list[tuple[int, Report]] = []
        while not reports:
            reports = self._receive(self.actors, POLL if wait else 0.0)
            if not wait:
                break
        return reports

    def _gather_all(self) -> list[tuple[int, Report]]:
        """:return: a report of each actor, in order"""
        reports: dict[int, Report] = {}
        while len(reports) < self.n_actors:
            missing = [actor for actor in self.actors if actor.index not in reports]
            for actor in missing:
                if not actor.pending:
                    actor.ask(self.version, self.weights_ref)
            reports.update(self._receive(missing, POLL))
        return sorted(reports.items())

    def _receive(self, actors: list[Supervised], timeout: float) -> list[tuple[int, Report]]:
        """:return: at most one valid report of each of these actors, after waiting up to ``timeout`` seconds for the first"""
        first = {actor.pending[0]: actor for actor in actors}  # each actor's blocks in order
        done, _ = ray.wait(list(first), timeout=timeout)
        if done and len(first) > 1:
            done, _ = ray.wait(list(first), num_returns=len(first), timeout=0)
        reports = [(first[ref].index, report) for ref in done if (report := self._get(first[ref])) is not None]
        if reports:
            self.last_block = time.monotonic()
        now = time.monotonic()
        # The learner did not check for long, e.g. during an evaluation: do not count this time as silence of actors
        if now - self.looked > max(2 * POLL, min(self.hang_timeout, self.stall_timeout) / 2):
            self.last_block = now
            for actor in self.actors:
                actor.heard = actor.heard and now
        self._check_silence(actors)
        self.looked = now
        return reports

    def _check_silence(self, actors: list[Supervised]) -> None:
        """Replace actors that hang, and raise a RuntimeError if no actor has sent anything for too long."""
        for actor in actors:
            if actor.silent_for() > self.hang_timeout:
                self._replace(actor, f"No block for {self.hang_timeout:g} s (hang_timeout)", None)
        if time.monotonic() - self.last_block > self.stall_timeout:
            raise RuntimeError(
                f"No actor has sent anything for {self.stall_timeout:g} s (stall_timeout). Ray's free resources are "
                f"{ray.available_resources()}: check whether they suffice to start the actors, and how long a block takes."
            )

    def _get(self, actor: Supervised) -> Report | None:
        """:return: the answer to the actor's first request; if it is invalid, the actor is replaced"""
        ref = actor.pending.popleft()
        try:
            report: Report = ray.get(ref)
            self.check(report)
        except (ray.exceptions.RayError, ValueError) as error:
            cause = getattr(error, "cause", None) or error
            self._replace(actor, f"{type(cause).__name__}: {cause}", error)
            return None
        actor.heard = time.monotonic()
        actor.steps += report.block.rewards.size
        if not self.synchronous:
            actor.ask(self.version, self.weights_ref)
        return report

    def _replace(self, actor: Supervised, reason: str, error: Exception | None) -> None:
        """Restart an actor that has failed, or raise a RuntimeError if there were too many failures."""
        now = time.monotonic()
        self.failures += 1
        self.failed_at.append(now)
        while now - self.failed_at[0] > self.failure_window:
            self.failed_at.popleft()
        self._end([actor], CLOSE_TIMEOUT if error else 0.0)  # without an error, the actor hangs
        if len(self.failed_at) > self.max_failures:
            raise RuntimeError(
                f"Actors failed {len(self.failed_at)} times within {self.failure_window:g} s, more than "
                f"max_failures={self.max_failures}. The last one was actor {actor.index}: {reason}"
            ) from error
        logger.warning("Actor %d failed and is being restarted. %s", actor.index, reason)
        self._start(actor)

    def close(self) -> None:
        """Stop the actors, and Ray if it was started here."""
        with self.ray:
            self._end(self.actors, CLOSE_TIMEOUT)

    def _end(self, actors: list[Supervised], timeout: float) -> None:
        """Let actors close their environments within ``timeout`` seconds, then kill them."""
        try:
            closing = {actor.close(): actor for actor in actors if actor.has_place()}
            done, _ = ray.wait(list(closing), num_returns=len(closing), timeout=timeout) if closing else ([], [])
            for ref in done:
                try:
                    ray.get(ref)
                except ray.exceptions.RayTaskError as error:
                    logger.warning("Actor %d could not close its environments. %s", closing[ref].index, error)
                except ray.exceptions.RayError:
                    pass  # the actor has died
        finally:
            for actor in actors:
                ray.kill(actor.handle, no_restart=True)
