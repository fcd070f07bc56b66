"""The learner's part of SB3's loop: it takes what actors send in place of stepping environments."""

import copy
from abc import abstractmethod
from collections import deque
from typing import Any, TypeVar

import numpy as np
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.type_aliases import RolloutReturn
from stable_baselines3.common.vec_env import VecEnv

from sb3_distrl.buffers import PrioritizedReplayBuffer
from sb3_distrl.common.algorithm import ValueAlgorithm
from sb3_distrl.common.finite import check_weights
from sb3_distrl.distributed.collectors import Collector
from sb3_distrl.distributed.envs import ActorEnvs
from sb3_distrl.distributed.saved_model import SavedModel
from sb3_distrl.distributed.worker import Report, Weights

LOOK_EVERY = 10  # gradient steps between looks at what actors have sent

SelfLearner = TypeVar("SelfLearner", bound="Learner")


class Learner(ValueAlgorithm):
    """
    An algorithm whose transitions come from actors; see :class:`~sb3_distrl.distributed.ApeX`, which starts them.

    Actors have models of the same class, with ``is_actor``, which collect transitions as the algorithm without actors does:
    with the networks and the epsilon that they are given, and a replay buffer of one block.

    ``replay_ratio`` and the arguments below are set by then.
    """

    env: ActorEnvs
    replay_buffer: PrioritizedReplayBuffer
    replay_ratio: float
    block_steps: int
    weights_interval: int
    tolerance: int | None
    synchronous: bool
    is_actor = False
    _actors: Collector | None = None
    _started_at = 0, 0  # environment steps and gradient steps before the actors
    _waiting: deque[tuple[float, bool, dict[str, Any]]]  # transitions that are no vectorised step yet

    @abstractmethod
    def _start_actors(self) -> Collector:
        """:return: actors at work"""

    def _actor_model(self) -> SavedModel:
        """
        :return: the model that actors start with
        :raises ValueError: if one of its attributes cannot be pickled
        """
        actor = copy.copy(self)
        actor.is_actor = True
        actor.n_envs = self.env.envs_per_actor
        actor.buffer_size = self.block_steps * actor.n_envs
        actor.precision, actor.compile = "float32", False
        actor.seed, actor.verbose, actor.tensorboard_log = None, 0, None
        actor._last_obs = actor._last_episode_starts = None  # type: ignore[assignment]
        return SavedModel.of(actor, exclude=["_random_state", "batch_norm_stats", "batch_norm_stats_target"])

    def learn(self: SelfLearner, *args: Any, **kwargs: Any) -> SelfLearner:
        """
        Learn; arguments as of the algorithm. Actors are started, and ended with it.

        :param args: as of the algorithm
        :param kwargs: as of the algorithm
        :return: the model
        :raises RuntimeError: if actors fail again and again, or send nothing
        """
        try:
            return super().learn(*args, **kwargs)
        finally:
            actors, self._actors = self._actors, None
            if actors is not None:
                actors.close()

    def _weights(self) -> Weights:
        """
        :return: of the networks now, on a CPU in the networks' own memory
        :raises ValueError: if they are not finite
        """
        check_weights(self.policy, self._n_updates, "and actors are not given them")
        networks = [network.state_dict() for network in (self.q_net, self.q_net_target)]
        return Weights(self._n_updates, *({name: t.cpu().numpy() for name, t in arrays.items()} for arrays in networks))

    def check_report(self, report: Report) -> None:
        """
        :param report: of an actor
        :raises ValueError: if it holds what cannot be
        """
        self.replay_buffer.check_block(report.block, self.env.envs_per_actor)

    def collect_rollouts(  # type: ignore[override]
        self, env: VecEnv, callback: BaseCallback, *args: Any, log_interval: int | None = None, **kwargs: Any
    ) -> RolloutReturn:
        """
        Take what actors have sent, as far as they are not too far ahead; wait for it where there is nothing else to do.

        An actor steps its environments, as the algorithm does without actors.
        """
        if self.is_actor:
            return super().collect_rollouts(env, callback, *args, log_interval=log_interval, **kwargs)
        self.policy.set_training_mode(False)
        callback.on_rollout_start()
        if self._actors is None:
            self._started_at, self._waiting = (self.num_timesteps, self._n_updates), deque()
            self._actors = self._start_actors()
        elif self._n_updates - self._actors.version >= (1 if self.synchronous else self.weights_interval):
            self._actors.publish(self._weights())
        before, episodes, going_on = self.num_timesteps, self._episode_num, True
        due = self._due()
        for actor, report in self._actors.gather(wait=due == 0) if self._may_insert(due) else []:
            if going_on and self.num_timesteps < self._total_timesteps:
                going_on = self._insert(actor, report, callback, log_interval)
        callback.on_rollout_end()
        return RolloutReturn(self.num_timesteps - before, self._episode_num - episodes, going_on)

    def _on_step(self) -> None:
        if not self.is_actor:  # which is given its epsilon and both networks
            super()._on_step()
            if self._actors is not None:
                self.logger.record("rollout/exploration_rate", float(self._actors.spec.epsilons.mean()))

    def _may_insert(self, due: int) -> bool:
        """
        :param due: gradient steps that are due now
        :return: whether actors are ahead by no more than they may
        """
        if self.synchronous:
            return due == 0
        tolerance = self.n_envs * self.block_steps if self.tolerance is None else self.tolerance
        return self._gradient_steps_due <= max(1.0, tolerance * self.replay_ratio)

    def _due(self) -> int:
        due = super()._due()
        in_one_go = self.synchronous or self.num_timesteps >= self._total_timesteps  # the last ones are done, too
        return due if in_one_go else min(due, LOOK_EVERY)

    def _insert(self, actor: int, report: Report, callback: BaseCallback, log_interval: int | None) -> bool:
        """
        :param actor: index
        :param report: of it
        :param callback: called once for each vectorised step
        :param log_interval: episodes between logs
        :return: whether to go on
        """
        block = report.block
        env_ids = np.arange(self.env.envs_per_actor) + actor * self.env.envs_per_actor
        if report.first:
            self.replay_buffer.end_episodes(env_ids)
        self.replay_buffer.add_block(env_ids, block)
        self.logger.record_mean("apex/staleness", self._n_updates - report.version)
        self.logger.record_mean("apex/bytes_per_transition", block.nbytes() / block.rewards.size)

        infos: list[dict[str, Any]] = [{} for _ in range(block.rewards.size)]
        for episode in report.episodes:
            infos[episode.step * len(env_ids) + episode.env] = episode.info
        self._waiting.extend(zip(block.rewards.reshape(-1), block.dones.reshape(-1), infos, strict=True))
        return self._count_steps(callback, log_interval)

    def _count_steps(self, callback: BaseCallback, log_interval: int | None) -> bool:
        """
        Do for each vectorised step what SB3 does where it has stored one.

        :param callback: called at each
        :param log_interval: episodes between logs
        :return: whether to go on
        """
        while len(self._waiting) >= self.n_envs and self.num_timesteps < self._total_timesteps:
            step = [self._waiting.popleft() for _ in range(self.n_envs)]
            rewards, dones, infos = (list(column) for column in zip(*step, strict=True))
            self.num_timesteps += self.n_envs
            callback.update_locals(dict(rewards=np.array(rewards), dones=np.array(dones), infos=infos))
            going_on = callback.on_step()
            self._update_info_buffer(infos, np.array(dones))
            self._update_current_progress_remaining(self.num_timesteps, self._total_timesteps)
            self._on_step()
            for _ in range(sum(dones)):
                self._episode_num += 1
                if log_interval is not None and self._episode_num % log_interval == 0:
                    self.dump_logs()
            if not going_on:
                return False
        return True

    def dump_logs(self) -> None:
        steps, updates = self._started_at
        learned_from = self.num_timesteps - max(steps, self.learning_starts)
        if learned_from > 0:
            self.logger.record("apex/replay_ratio", (self._n_updates - updates) / learned_from)
        self.logger.record("apex/failures", 0 if self._actors is None else self._actors.failures)
        super().dump_logs()

    def __getstate__(self) -> dict[str, Any]:
        return {**super().__getstate__(), "_actors": None}  # a copy of a model has none

    def _get_torch_save_params(self) -> tuple[list[str], list[str]]:
        modules, variables = super()._get_torch_save_params()
        return [name for name in modules if not (self.is_actor and name == "policy.optimizer")], variables

    def _excluded_save_params(self) -> list[str]:
        return [*super()._excluded_save_params(), "_actors", "_waiting"]
