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

LOOK_EVERY = 10  # gradient steps between looks at what actors have sent
# What actors do in another way
REPLACED = {
    **dict.fromkeys(
        ("exploration_fraction", "exploration_initial_eps", "exploration_final_eps"), "actor_epsilon and actor_epsilon_alpha"
    ),
    "overlap": "nothing: actors step environments at any time",
}


class ApeX(ValueAlgorithm):
    """
    Distributed Prioritized Experience Replay (Horgan et al. 2018, https://arxiv.org/abs/1803.00933) for an algorithm of this
    library: ``ApeXRainbow``, ``ApeXIQN`` and ``ApeXQRDQN``, or ``class Mine(ApeX, MyAlgorithm)``.

    Actors, which are processes of Ray, each step environments of their own with a copy of the networks, and send blocks of
    transitions with their initial priorities: the algorithm's own, of n-step transitions, by the actor's copies of both
    networks. The learner, this process, keeps them in its replay buffer, does gradient steps and sends weights back. All that
    SB3 has for a training works here: callbacks, logs of episodes, the progress bar, saving, loading, checkpoints.

    Environment i of all N explores with epsilon ``actor_epsilon ** (1 + i / (N - 1) * actor_epsilon_alpha)`` (section 4.1), on
    top of noisy networks, if they are on (set ``actor_epsilon=0`` to explore by noise alone), and by random actions before
    ``learning_starts``. A single environment, for which the paper's formula is 0/0, explores like the middle one of many, by
    default with 0.016. ``rollout/exploration_rate`` in logs is the mean of all epsilons, the share of random actions in what
    is collected; ``predict(deterministic=False)`` explores like the last environment.

    As many gradient steps are done for each transition as in the algorithm without actors: ``replay_ratio``, or, without it,
    ``gradient_steps / train_freq``, which Horgan et al. leave to the machines' speed. Actors that are more than
    ``tolerance`` transitions ahead have to wait, and the learner waits where it has no gradient steps left to do. The ratio
    reached is logged as ``apex/replay_ratio``; how many gradient steps old the actors' weights are as ``apex/staleness``.

    Vectorised steps, in which SB3 counts callbacks, are as many transitions as there are environments in all, whichever they
    come from; ``locals`` of callbacks have ``rewards``, ``dones`` and, where an episode ended, Monitor's ``infos``. Some
    blocks may be under way when training ends: they are dropped.

    An actor that dies, does not answer, or sends what is no transition (not finite, of another shape, an action that there is
    not) is started again with other seeds and its own epsilons. What it sent does not reach the replay buffer.

    A subclass may override what it may without actors, such as the loss. Its actors have models of the same class, with
    ``is_actor=True``, that SB3's ``save()`` and ``load()`` make of the learner's when ``learn()`` begins. After that only the
    weights of both networks are sent; all other attributes stay as they were. Attributes that cannot be pickled have to be
    named by ``_excluded_save_params()``; actors have those that ``__init__`` and ``_setup_model()`` set.

    :param policy: as of the algorithm
    :param env: name of an environment, or a function without arguments that makes one, or a VecEnv of all that an actor steps
    :param n_actors: number of actors
    :param envs_per_actor: environments that each of them steps; by default 1, or as many as the VecEnv has
    :param block_steps: steps of each environment in a block; the paper's is 50
    :param actor_epsilon: see above
    :param actor_epsilon_alpha: see above
    :param weights_interval: gradient steps after which actors are sent weights
    :param tolerance: transitions by which actors may be ahead; by default a block of each actor
    :param synchronous: let all actors send a block, then do all gradient steps, and so on: slower, and the same each time
    :param collector: "ray", or "local" for actors in this process
    :param ray_address: of a running cluster, such as "10.0.0.1:6379", or "auto" on its head; ``None`` starts Ray here
    :param cpus_per_actor: processors that Ray reserves for each actor, by which it also says how many fit
    :param max_failures: of actors within ``failure_window``, beyond which training ends with an error; by default 5, or two
        for each actor if that is more
    :param failure_window: seconds
    :param hang_timeout: seconds that an actor may take for a block
    :param stall_timeout: seconds without any block, after which training ends with an error
    :param kwargs: all other arguments of the algorithm, but those of epsilon and ``overlap``
    :raises ValueError: for arguments out of range, or more actors than Ray has processors for
    :raises ImportError: if Ray is not installed
    """

    env: ActorEnvs
    replay_buffer: PrioritizedReplayBuffer
    is_actor = False
    _intake: Intake | None = None  # while actors are at work

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
        for name in REPLACED.keys() & kwargs.keys():
            raise ValueError(f"{name}={kwargs[name]} has no effect on actors: use {REPLACED[name]}.")
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
        """:return: of all actors' environments, shape [n_envs]"""
        return epsilon_ladder(self.n_envs, self.actor_epsilon, self.actor_epsilon_alpha)

    @classmethod
    def load(  # type: ignore[override]
        cls: type[SelfApeX], path: Any, env: EnvSource | ActorEnvs | None = None, *args: Any, **kwargs: Any
    ) -> SelfApeX:
        """
        Load a model; arguments as of the algorithm, and those of the constructor to change them.

        :param path: file
        :param env: as in the constructor; without one, the model can predict, but not learn
        :param args: as in SB3
        :param kwargs: as in SB3
        :return: the model
        :raises ValueError: as of the algorithm's ``load``
        """
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
        :param env: as in the constructor
        :param force_reset: as in SB3
        """
        if not (self.is_actor or isinstance(env, ActorEnvs)):
            env = ActorEnvs(env, self.n_actors, self.envs_per_actor)
        super().set_env(env, force_reset)

    # Actors

    def _start_actors(self) -> Collector:
        weights = self._weights()  # first: it says what is wrong with them
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

    # Learning

    def _setup_learn(self, *args: Any, **kwargs: Any) -> tuple[int, BaseCallback]:
        self._last_obs = None  # actors begin with new episodes
        with warnings.catch_warnings():  # of EvalCallback, as ActorEnvs are no environments that one evaluates with
            warnings.filterwarnings("ignore", "Training and eval env are not of the same type")
            return super()._setup_learn(*args, **kwargs)

    def learn(self: SelfApeX, *args: Any, **kwargs: Any) -> SelfApeX:
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
            intake, self._intake = self._intake, None
            if intake is not None:
                intake.actors.close()

    def collect_rollouts(  # type: ignore[override]
        self, env: VecEnv, callback: BaseCallback, *args: Any, log_interval: int | None = None, **kwargs: Any
    ) -> RolloutReturn:
        """Take what actors have sent; an actor steps its environments, as the algorithm does without actors."""
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
        in_one_go = self.synchronous or self.num_timesteps >= self._total_timesteps  # the last ones are done, too
        return due if in_one_go else min(due, LOOK_EVERY)

    def _on_step(self) -> None:
        if not self.is_actor:  # which is given its epsilon and both networks
            super()._on_step()
            if self._intake is not None:
                self.logger.record("rollout/exploration_rate", float(self._intake.actors.spec.epsilons.mean()))

    def dump_logs(self) -> None:
        if self._intake is not None:
            self._intake.record()
        super().dump_logs()

    def __getstate__(self) -> dict[str, Any]:
        return {**super().__getstate__(), "_intake": None}  # a copy of a model has no actors

    def _get_torch_save_params(self) -> tuple[list[str], list[str]]:
        modules, variables = super()._get_torch_save_params()
        needless = [f"policy.{name}" for name in optimizers_of(self.policy)] if self.is_actor else []
        return [name for name in modules if name not in needless], variables

    def _excluded_save_params(self) -> list[str]:
        return [*super()._excluded_save_params(), "_intake"]


class ApeXRainbow(ApeX, Rainbow):
    """:class:`ApeX` for Rainbow; all other arguments are those of :class:`~sb3_distrl.rainbow.Rainbow`."""


class ApeXIQN(ApeX, IQN):
    """:class:`ApeX` for IQN; use ``prioritized=True`` for Ape-X proper. All other arguments are those of IQN."""


class ApeXQRDQN(ApeX, QRDQN):
    """:class:`ApeX` for QRDQN; use ``prioritized=True`` for Ape-X proper. All other arguments are those of QRDQN."""
