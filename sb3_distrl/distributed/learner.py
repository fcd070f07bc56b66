"""Pass what actors send to the learner's replay buffer, counters, logs and callbacks."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Any

import numpy as np
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.type_aliases import RolloutReturn

from sb3_distrl.distributed.collectors import Collector
from sb3_distrl.distributed.worker import Report

if TYPE_CHECKING:
    from sb3_distrl.distributed.apex import ApeX


class Intake:
    """The learner's part of SB3's loop: it takes actors' reports instead of stepping environments."""

    def __init__(self, model: ApeX, actors: Collector) -> None:
        self.model, self.actors = model, actors
        self.started_at = model.num_timesteps, model._n_updates
        self._waiting: deque[tuple[float, bool, dict[str, Any]]] = deque()  # transitions, less than a vectorised step

    def collect(self, callback: BaseCallback, log_interval: int | None) -> RolloutReturn:
        """Take what actors have sent, unless they are too far ahead; wait for it if no gradient steps are due."""
        model = self.model
        before, episodes, going_on = model.num_timesteps, model._episode_num, True
        due = model.steps_due()
        for actor, report in self.actors.gather(wait=due == 0) if self._may_insert(due) else []:
            if going_on and model.num_timesteps < model._total_timesteps:
                going_on = self.insert(actor, report, callback, log_interval)
        return RolloutReturn(model.num_timesteps - before, model._episode_num - episodes, going_on)

    def _may_insert(self, due: int) -> bool:
        """:return: whether actors are within the tolerance, with ``due`` gradient steps to do"""
        model = self.model
        if model.synchronous:
            return due == 0
        tolerance = model.n_envs * model.block_steps if model.tolerance is None else model.tolerance
        assert model.replay_ratio is not None
        return model._gradient_steps_due <= max(1.0, tolerance * model.replay_ratio)

    def insert(self, actor: int, report: Report, callback: BaseCallback, log_interval: int | None) -> bool:
        """Add a report of an actor; return whether to continue training."""
        block, model = report.block, self.model
        env_ids = np.arange(model.env.envs_per_actor) + actor * model.env.envs_per_actor
        if report.first:
            model.replay_buffer.end_episodes(env_ids)
        model.replay_buffer.add_block(env_ids, block)
        model.logger.record_mean("apex/staleness", model._n_updates - report.version)
        model.logger.record_mean("apex/bytes_per_transition", block.nbytes() / block.rewards.size)

        infos: list[dict[str, Any]] = [{} for _ in range(block.rewards.size)]
        for episode in report.episodes:
            infos[episode.step * len(env_ids) + episode.env] = episode.info
        self._waiting.extend(zip(block.rewards.reshape(-1), block.dones.reshape(-1), infos, strict=True))
        return self._count_steps(callback, log_interval)

    def _count_steps(self, callback: BaseCallback, log_interval: int | None) -> bool:
        """Do what SB3 does after each vectorised step; return whether to continue training."""
        model = self.model
        while len(self._waiting) >= model.n_envs and model.num_timesteps < model._total_timesteps:
            step = [self._waiting.popleft() for _ in range(model.n_envs)]
            rewards, dones, infos = (list(column) for column in zip(*step, strict=True))
            model.num_timesteps += model.n_envs
            callback.update_locals(dict(rewards=np.array(rewards), dones=np.array(dones), infos=infos))
            going_on = callback.on_step()
            model._update_info_buffer(infos, np.array(dones))
            model._update_current_progress_remaining(model.num_timesteps, model._total_timesteps)
            model._on_step()
            for _ in range(sum(dones)):
                model._episode_num += 1
                if log_interval is not None and model._episode_num % log_interval == 0:
                    model.dump_logs()
            if not going_on:
                return False
        return True

    def record(self) -> None:
        """Log the replay ratio and the failures of actors."""
        steps, updates = self.started_at
        learned_from = self.model.num_timesteps - max(steps, self.model.learning_starts)
        if learned_from > 0:
            self.model.logger.record("apex/replay_ratio", (self.model._n_updates - updates) / learned_from)
        self.model.logger.record("apex/failures", self.actors.failures)
