"""Ape-X (Horgan et al. 2018): many actors, one learner with one prioritized replay."""

import copy
import math
import warnings
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.save_util import load_from_zip_file
from stable_baselines3.common.type_aliases import RolloutReturn
from stable_baselines3.common.vec_env import VecEnv

from sb3_distrl.buffers import PrioritizedReplayBuffer
from sb3_distrl.common.algorithm import ValueAlgorithm
from sb3_distrl.common.checkpoints import whole_model
from sb3_distrl.common.finite import check_weights
from sb3_distrl.common.policies import optimizers_of
from sb3_distrl.distributed.arguments import check_arguments, ratio_without_actors
from sb3_distrl.distributed.collectors import Collector, LocalCollector
from sb3_distrl.distributed.envs import ActorEnvs, EnvSource
from sb3_distrl.distributed.learner import Intake
from sb3_distrl.distributed.saved_model import SavedModel
from sb3_distrl.distributed.worker import ActorSpec, Report, Weights, epsilon_ladder
from sb3_distrl.iqn import IQN
from sb3_distrl.qrdqn import QRDQN
from sb3_distrl.rainbow import Rainbow

SelfApeX = TypeVar("SelfApeX", bound="ApeX")

LOOK_EVERY = 10  # gradient steps between checks for new blocks
# Arguments without effect on actors, and what to use instead
REPLACED = {
    **dict.fromkeys(
        ("exploration_fraction", "exploration_initial_eps", "exploration_final_eps"), "actor_epsilon and actor_epsilon_alpha"
    ),
    "overlap": "nothing: actors step environments at any time",
}


def refuse_replaced(arguments: dict[str, Any]) -> None:
    """:raises ValueError: for arguments of the algorithm that have no effect with actors"""
    for name in REPLACED.keys() & arguments.keys():
        raise ValueError(f"{name}={arguments[name]} has no effect on actors: use {REPLACED[name]}.")


class ApeX(ValueAlgorithm):
    """
    Distributed Prioritized Experience Replay (Horgan et al. 2018, https://arxiv.org/abs/1803.00933) for an algorithm of this
    library: ``ApeXRainbow``, ``ApeXIQN`` and ``ApeXQRDQN``, or ``class Mine(ApeX, MyAlgorithm)``.

    Actors are Ray processes. Each steps its own environments with a copy of the networks and sends blocks of transitions with
    initial priorities, which it computes as the algorithm does, from n-step transitions and its copies of both networks. The
    learner (this process) adds them to its replay buffer, does gradient steps and sends weights back. SB3's callbacks, episode
    logs, progress bar, saving, loading and checkpoints work as usual.

    Environment i of N explores with epsilon ``actor_epsilon ** (1 + i / (N - 1) * actor_epsilon_alpha)`` (section 4.1), in
    addition to noisy networks (``actor_epsilon=0`` explores by noise alone), and with random actions before
    ``learning_starts``. A single environment, for which the formula is 0/0, gets the middle of the ladder, by default 0.016.
    ``rollout/exploration_rate`` is the mean epsilon of all environments; ``predict(deterministic=False)`` explores like the
    last one.

    The number of gradient steps per transition is that of the algorithm without actors: ``replay_ratio`` or, without it,
    ``gradient_steps / train_freq`` (in the paper it depends on the speed of the machines). Actors that are more than
    ``tolerance`` transitions ahead wait, and so does the learner when no gradient steps are due. Logs have the ratio reached
    as ``apex/replay_ratio``, and the age of the actors' weights in gradient steps as ``apex/staleness``.

    A vectorised step, in which SB3 counts callbacks, is as many transitions as there are environments, whichever environments
    they come from; callbacks find ``rewards``, ``dones`` and, at the end of an episode, Monitor's ``infos`` in ``locals``.
    Blocks still under way when training ends are dropped.

    An actor that dies, hangs, or sends invalid transitions (not finite, wrong shape, unknown action) is restarted with new
    seeds and the same epsilons. Invalid transitions never reach the replay buffer.

    A subclass may override the same methods as without actors, such as the loss. Its actors have models of the same class,
    with ``is_actor=True``, copied by SB3's ``save()`` and ``load()`` when ``learn()`` begins. After that only the weights of
    both networks are sent; other attributes do not change. List attributes that cannot be pickled in
    ``_excluded_save_params()``; actors get them from ``__init__`` and ``_setup_model()``.

    :param policy: as in the algorithm
    :param env: environment ID, or a function without arguments that makes one environment or an actor's whole VecEnv
    :param n_actors: number of actors
    :param envs_per_actor: environments per actor; by default 1, or as many as the VecEnv has
    :param block_steps: steps of each environment in a block; 50 in the paper
    :param actor_epsilon: see above
    :param actor_epsilon_alpha: see above
    :param weights_interval: gradient steps between updates of the actors' weights
    :param tolerance: transitions by which actors may be ahead; by default one block per actor
    :param synchronous: alternate between one block from each actor and all gradient steps due: slower, but reproducible
    :param collector: "ray", or "local" for actors in this process
    :param ray_address: address of a running cluster, such as "10.0.0.1:6379", or "auto" on its head node; ``None`` starts Ray
        on this machine
    :param cpus_per_actor: CPUs that Ray reserves for each actor; they limit the number of actors
    :param max_failures: failures of actors tolerated within ``failure_window``; by default 5, or two per actor if that is more
    :param failure_window: in seconds
    :param hang_timeout: seconds that an actor may take for a block
    :param stall_timeout: seconds without a block from any actor after which training ends with an error
    :param kwargs: all other arguments of the algorithm, except those of epsilon and ``overlap``
    :raises ValueError: for arguments out of range, or more actors than Ray has CPUs for
    :raises ImportError: if Ray is not installed
    """

    env: ActorEnvs
    replay_buffer: PrioritizedReplayBuffer
    is_actor = False
    _intake: Intake | None = None  # while actors are running

    def __init__(
        self,
        policy: Any,
        env: EnvSource | ActorEnvs | None,
        *,
        n_actors: int = 2,
        envs_per_actor: int | None = None,
        block_steps: int = 50,
        actor_epsilon: float = 0.4,
        actor_epsilon_alpha: float = 7.0,
        weights_interval: int = 50,
        tolerance: int | None = None,
        synchronous: bool = False,
        collector: str = "ray",
        ray_address: str | None = None,
        cpus_per_actor: float = 1.0,
        max_failures: int | None = None,
        failure_window: float = 600.0,
        hang_timeout: float = 120.0,
        stall_timeout: float = 600.0,
        **kwargs: Any,
    ) -> None:
        refuse_replaced(kwargs)
        if env is not None and not isinstance(env, ActorEnvs):
            env = ActorEnvs(env, n_actors, envs_per_actor)
        self.n_actors = n_actors if env is None else env.n_actors
        self.envs_per_actor = envs_per_actor
        self.block_steps = block_steps
        self.actor_epsilon = actor_epsilon
        self.actor_epsilon_alpha = actor_epsilon_alpha
        self.weights_interval = weights_interval
        self.tolerance = tolerance
        self.synchronous = synchronous
        self.collector = collector
        self.ray_address = ray_address
        self.cpus_per_actor = cpus_per_actor
        self.max_failures = max_failures
        self.failure_window = failure_window
        self.hang_timeout = hang_timeout
        self.stall_timeout = stall_timeout
        super().__init__(policy, env, overlap=False, **kwargs)

    # Set-up

    def _check_arguments(self) -> None:
        if not self.is_actor:
            check_arguments(self)
            if self.replay_ratio is None:
                self.replay_ratio, self.gradient_steps = ratio_without_actors(self.train_freq, self.gradient_steps), 1
            greediest = float(self._epsilons()[-1])  # for predict()
            self.exploration_initial_eps = self.exploration_final_eps = self.exploration_rate = greediest
        super()._check_arguments()

    def _epsilons(self) -> np.ndarray:
        """:return: shape [n_envs]"""
        return epsilon_ladder(self.n_envs, self.actor_epsilon, self.actor_epsilon_alpha)

    @classmethod
    def load(  # type: ignore[override]
        cls: type[SelfApeX], path: Any, env: EnvSource | ActorEnvs | None = None, *args: Any, **kwargs: Any
    ) -> SelfApeX:
        """
        Load a model.

        :param path: file
        :param env: as in the constructor; without one, the model can predict but not learn
        :param args: as in SB3
        :param kwargs: as in SB3; arguments of the constructor replace saved ones
        :return: the model
        :raises ValueError: as in the algorithm's ``load``
        """
        refuse_replaced(kwargs)
        if isinstance(path, (str, Path)):
            path = whole_model(path)
        if env is not None and not isinstance(env, ActorEnvs):
            saved = {**(load_from_zip_file(path)[0] or {}), **kwargs}
            if "n_actors" not in saved:
                raise ValueError(f"path={path} was saved by an algorithm without actors: load it with that one.")
            env = ActorEnvs(env, saved["n_actors"], saved["envs_per_actor"])
        return super().load(path, env, *args, **kwargs)

    def set_env(self, env: Any, force_reset: bool = True) -> None:
        """
        Set the environment of all actors.

        :param env: as in the constructor
        :param force_reset: as in SB3
        """
        if not (self.is_actor or isinstance(env, ActorEnvs)):
            env = ActorEnvs(env, self.n_actors, self.envs_per_actor)
        super().set_env(env, force_reset)

    # Actors

    def _start_actors(self) -> Collector:
        weights = self._weights()  # first, for its error if they are not finite
        seed = np.random.randint(2**31) if self.seed is None else self.seed
        spec = ActorSpec(
            model=self._actor_model(),
            envs=self.env,
            random_steps=math.ceil(max(0, self.learning_starts - self.num_timesteps) / self.env.n_actors),
            epsilons=self._epsilons().reshape(self.env.n_actors, self.env.envs_per_actor),
            seed=(seed, self.num_timesteps),
        )
        if self.collector == "local":
            return LocalCollector(spec, self.env.n_actors, weights, self.synchronous)
        from sb3_distrl.distributed.ray_collector import RayCollector

        return RayCollector(
            spec,
            self.env.n_actors,
            weights,
            self.synchronous,
            check=self.check_report,
            address=self.ray_address,
            cpus_per_actor=self.cpus_per_actor,
            max_failures=self.max_failures,
            failure_window=self.failure_window,
            hang_timeout=self.hang_timeout,
            stall_timeout=self.stall_timeout,
        )

    def _actor_model(self) -> SavedModel:
        """Copy this model for actors; a ValueError names an attribute that cannot be pickled."""
        actor = copy.copy(self)
        actor.is_actor = True
        actor.n_envs = self.env.envs_per_actor
        actor.buffer_size = self.block_steps * actor.n_envs
        actor.precision, actor.compile = "float32", False
        actor.seed, actor.verbose, actor.tensorboard_log = None, 0, None
        actor._last_obs = actor._last_episode_starts = None  # type: ignore[assignment]
        return SavedModel.of(actor, exclude=["_random_state", "batch_norm_stats", "batch_norm_stats_target"])

    def _weights(self) -> Weights:
        """:return: current weights of both networks, if finite; on the CPU they share memory with the networks"""
        check_weights(self.policy, self._n_updates, "so they are not sent to actors")
        networks = [network.state_dict() for network in (self.q_net, self.q_net_target)]
        return Weights(self._n_updates, *({name: t.cpu().numpy() for name, t in arrays.items()} for arrays in networks))

    def check_report(self, report: Report) -> None:
        """:raises ValueError: if an actor's report has invalid transitions"""
        self.replay_buffer.check_block(report.block, self.env.envs_per_actor)

    # Learning

    def _setup_learn(self, *args: Any, **kwargs: Any) -> tuple[int, BaseCallback]:
        self._last_obs = None  # actors start new episodes
        with warnings.catch_warnings():  # by EvalCallback: evaluation needs another class than ActorEnvs
            warnings.filterwarnings("ignore", "Training and eval env are not of the same type")
            return super()._setup_learn(*args, **kwargs)

    def learn(self: SelfApeX, *args: Any, **kwargs: Any) -> SelfApeX:
        """Start actors, learn, and stop the actors; a RuntimeError means that they fail too often or send nothing."""
        try:
            return super().learn(*args, **kwargs)
        finally:
            intake, self._intake = self._intake, None
            if intake is not None:
                intake.actors.close()

    def collect_rollouts(  # type: ignore[override]
        self, env: VecEnv, callback: BaseCallback, *args: Any, log_interval: int | None = None, **kwargs: Any
    ) -> RolloutReturn:
        """The learner takes the actors' blocks; an actor steps its environments as in the algorithm without actors."""
        if self.is_actor:
            return super().collect_rollouts(env, callback, *args, log_interval=log_interval, **kwargs)
        self.policy.set_training_mode(False)
        callback.on_rollout_start()
        if self._intake is None:
            self._intake = Intake(self, self._start_actors())
        elif self._n_updates - self._intake.actors.version >= (1 if self.synchronous else self.weights_interval):
            self._intake.actors.publish(self._weights())
        rollout = self._intake.collect(callback, log_interval)
        callback.on_rollout_end()
        return rollout

    def steps_due(self) -> int:
        due = super().steps_due()
        in_one_go = self.synchronous or self.num_timesteps >= self._total_timesteps  # at the end, do all that are left
        return due if in_one_go else min(due, LOOK_EVERY)

    def _on_step(self) -> None:
        if not self.is_actor:  # an actor's epsilon and target network come from the learner
            super()._on_step()
            if self._intake is not None:
                self.logger.record("rollout/exploration_rate", float(self._intake.actors.spec.epsilons.mean()))

    def dump_logs(self) -> None:
        if self._intake is not None:
            self._intake.record()
        super().dump_logs()

    def __getstate__(self) -> dict[str, Any]:
        return {**super().__getstate__(), "_intake": None}  # a copy has no running actors

    def _get_torch_save_params(self) -> tuple[list[str], list[str]]:
        modules, variables = super()._get_torch_save_params()
        needless = [f"policy.{name}" for name in optimizers_of(self.policy)] if self.is_actor else []
        return [name for name in modules if name not in needless], variables

    def _excluded_save_params(self) -> list[str]:
        return [*super()._excluded_save_params(), "_intake"]


class ApeXRainbow(ApeX, Rainbow):
    """:class:`ApeX` for Rainbow; see :class:`~sb3_distrl.rainbow.Rainbow` for its other arguments."""


class ApeXIQN(ApeX, IQN):
    """:class:`ApeX` for IQN, whose other arguments it takes; ``prioritized=True`` is Ape-X as in the paper."""


class ApeXQRDQN(ApeX, QRDQN):
    """:class:`ApeX` for QRDQN, whose other arguments it takes; ``prioritized=True`` is Ape-X as in the paper."""
