"""Actors as processes of Ray, and who looks after them."""

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

IN_FLIGHT = 2  # blocks that an actor is asked for at a time, so that it need not wait for the learner to come by
POLL = 1.0  # seconds between looks at actors that say nothing
CLOSE_TIMEOUT = 5.0  # seconds that actors have to end their blocks and close their environments, before they are killed

logger = logging.getLogger(__name__)


class RemoteWorker(RolloutWorker):
    """A worker that has a process for itself."""

    def __init__(self, *args: Any) -> None:
        th.set_num_threads(1)
        super().__init__(*args)


class Supervised:
    """
    An actor and what is asked of it.

    :param index: of the actor
    """

    def __init__(self, index: int) -> None:
        self.index, self.incarnation, self.steps = index, -1, 0

    def start(self, spec: ray.ObjectRef, cpus: float) -> None:
        """
        Start it, or another one in its place, of which nothing that was asked before is heard any more.

        :param spec: what all actors share
        :param cpus: processors to reserve
        """
        self.incarnation += 1
        self.version = -1  # of the weights that it was sent last
        self.pending: deque[ray.ObjectRef] = deque()
        options = dict(num_cpus=cpus, max_restarts=0, max_task_retries=0)
        remote: Any = ray.remote(RemoteWorker).options(**options)
        self.handle = remote.remote(spec, self.index, self.incarnation, self.steps)
        self.placed = self.handle.__ray_ready__.remote()  # as long as this has no result, it may be waiting for a place
        self.heard: float | None = None  # when it was last heard of, in seconds

    def ask(self, version: int, weights: ray.ObjectRef) -> None:
        """
        :param version: of the newest weights
        :param weights: these
        """
        if not self.pending:  # it was not asked for anything, so that nothing was to be heard
            self.heard = self.heard and time.monotonic()
        self.pending.append(self.handle.collect.remote(weights if version > self.version else None))
        self.version = version

    def close(self) -> ray.ObjectRef:
        """:return: of nothing, when it has closed its environments, after the block that it is at"""
        for ref in self.pending:
            ray.cancel(ref)
        return self.handle.close.remote()

    def has_place(self) -> bool:
        """:return: whether it has found a place to run"""
        return bool(ray.wait([self.placed], timeout=0)[0])

    def silent_for(self) -> float:
        """:return: seconds since it was last heard of; 0 while it has no place to run yet"""
        if self.heard is None and self.has_place():
            self.heard = time.monotonic()
        return 0.0 if self.heard is None else time.monotonic() - self.heard


class RayCollector(Collector):
    """
    Actors as processes of Ray, which restarts none of them: this does, with new seeds, and gives up where that does not help.

    :param spec: see :class:`Collector`
    :param n_actors: see :class:`Collector`
    :param weights: see :class:`Collector`
    :param synchronous: see :class:`Collector`
    :param check: raises a ValueError for a report that must not be used
    :param address: see :func:`~sb3_distrl.distributed.cluster.connection`
    :param cpus_per_actor: processors that are reserved for each
    :param max_failures: how many within ``failure_window`` are tolerated; ``None`` is 5, or two of each actor if that is more
    :param failure_window: seconds
    :param hang_timeout: seconds that a block may take
    :param stall_timeout: seconds without any block, after which it is an error
    :raises ValueError: if Ray cannot be reached, or has no room for the actors
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
        """:return: a block of each actor, in order"""
        reports: dict[int, Report] = {}
        while len(reports) < self.n_actors:
            missing = [actor for actor in self.actors if actor.index not in reports]
            for actor in missing:
                if not actor.pending:
                    actor.ask(self.version, self.weights_ref)
            reports.update(self._receive(missing, POLL))
        return sorted(reports.items())

    def _receive(self, actors: list[Supervised], timeout: float) -> list[tuple[int, Report]]:
        """
        :param actors: that have been asked for something
        :param timeout: seconds to wait for the first
        :return: what has come in, at most one report of each
        :raises RuntimeError: if actors failed too often, or nothing has come for too long
        """
        first = {actor.pending[0]: actor for actor in actors}  # an actor's blocks are taken in order
        done, _ = ray.wait(list(first), timeout=timeout)
        if done and len(first) > 1:
            done, _ = ray.wait(list(first), num_returns=len(first), timeout=0)
        reports = [(first[ref].index, report) for ref in done if (report := self._get(first[ref])) is not None]
        if reports:
            self.last_block = time.monotonic()
        now = time.monotonic()
        # The learner did not look for long, as it was evaluating, say: nobody else is to blame for that time
        if now - self.looked > max(2 * POLL, min(self.hang_timeout, self.stall_timeout) / 2):
            self.last_block = now
            for actor in self.actors:
                actor.heard = actor.heard and now
        self._check_silence(actors)
        self.looked = now
        return reports

    def _check_silence(self, actors: list[Supervised]) -> None:
        """
        :param actors: that have been asked for something
        :raises RuntimeError: if nothing has come for too long
        """
        for actor in actors:
            if actor.silent_for() > self.hang_timeout:
                self._replace(actor, f"nothing heard of it for {self.hang_timeout:g} s (hang_timeout)", None)
        if time.monotonic() - self.last_block > self.stall_timeout:
            raise RuntimeError(
                f"No actor has sent anything for {self.stall_timeout:g} s (stall_timeout). Ray has "
                f"{ray.available_resources()} to spare: see whether actors find a place to run, and how long a block takes."
            )

    def _get(self, actor: Supervised) -> Report | None:
        """:return: what the actor was asked for first, if it is well"""
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
        """
        :param actor: that has failed
        :param reason: why
        :param error: that it raised
        :raises RuntimeError: if too many have failed
        """
        now = time.monotonic()
        self.failures += 1
        self.failed_at.append(now)
        while now - self.failed_at[0] > self.failure_window:
            self.failed_at.popleft()
        self._end([actor], CLOSE_TIMEOUT if error else 0.0)  # without an error, it hangs
        if len(self.failed_at) > self.max_failures:
            raise RuntimeError(
                f"Actors failed {len(self.failed_at)} times within {self.failure_window:g} s, more than "
                f"max_failures={self.max_failures}. The last one was actor {actor.index}: {reason}"
            ) from error
        logger.warning("Actor %d failed and is started again. %s", actor.index, reason)
        self._start(actor)

    def close(self) -> None:
        """End the actors, and Ray, if it was started here."""
        with self.ray:
            self._end(self.actors, CLOSE_TIMEOUT)

    def _end(self, actors: list[Supervised], timeout: float) -> None:
        """
        :param actors: that close their environments, and are killed
        :param timeout: seconds that they have for it
        """
        try:
            closing = {actor.close(): actor for actor in actors if actor.has_place()}
            done, _ = ray.wait(list(closing), num_returns=len(closing), timeout=timeout) if closing else ([], [])
            for ref in done:
                try:
                    ray.get(ref)
                except ray.exceptions.RayTaskError as error:
                    logger.warning("Actor %d could not close its environments. %s", closing[ref].index, error)
                except ray.exceptions.RayError:
                    pass  # it has died
        finally:
            for actor in actors:
                ray.kill(actor.handle, no_restart=True)
