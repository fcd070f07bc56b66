"""The base of all algorithms: SB3's DQN with everything around the loss that distributional variants share."""

from abc import abstractmethod
from typing import Any, TypeVar

import numpy as np
import torch as th
from gymnasium import Env
from stable_baselines3.common.buffers import ReplayBuffer
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.logger import Logger
from stable_baselines3.common.policies import BasePolicy
from stable_baselines3.common.type_aliases import GymEnv, MaybeCallback, PyTorchObs
from stable_baselines3.common.utils import ConstantSchedule, LinearSchedule
from stable_baselines3.common.vec_env import VecEnv

from sb3_distrl.buffers import PrioritizedReplayBuffer, PrioritizedReplayBufferSamples
from sb3_distrl.common.acceleration import compiled, fastest_layout, keep_freed_memory
from sb3_distrl.common.acting import Acting
from sb3_distrl.common.arguments import check_arguments, check_spaces, policy_arguments, refuse_vector_env, take_numbers
from sb3_distrl.common.episodes import end_episodes
from sb3_distrl.common.final_observations import FinalObservations
from sb3_distrl.common.gradient_steps import NotFinite, check_seen, refusal, take_step, warn_of_no_gradient_step
from sb3_distrl.common.loss import Loss, Samples
from sb3_distrl.common.metrics import RunningMetrics
from sb3_distrl.common.overlap import discard_unread
from sb3_distrl.common.policies import ValueNetwork, copy_buffers
from sb3_distrl.common.replay import check_replay_buffer, default_class, make_replay_buffer
from sb3_distrl.functional import Distortion

SelfValueAlgorithm = TypeVar("SelfValueAlgorithm", bound="ValueAlgorithm")

NORM_EVERY = 10  # gradient steps between norms of gradients, where none are clipped: a pass over the memory for a log
LOG_EVERY = 100  # gradient steps between transfers of metrics from the device, where no log is written before


class ValueAlgorithm(Acting):
    """
    Value-based learning in SB3: sampling, weighting, replay ratio, logging. Subclasses bring the loss.

    All arguments that SB3's DQN has keep their meaning, except that epsilon is drawn for each environment of a
    vectorised step on its own, and that each update of the target network also copies the online network's buffers, such as
    the statistics of batch normalisation, whatever ``tau``. These come on top:

    :param optimize_memory_usage: keep each frame of a stack once in this library's replay buffers; ``None`` does so for images
    :param n_steps: rewards in a return (Sutton 1988), in environment steps
    :param double_q: choose the next action by the online network (van Hasselt et al. 2016)
    :param prioritized: prioritized replay (Schaul et al. 2016); otherwise uniform
    :param alpha: how much priorities count in sampling, 0 (not at all) to 1
    :param beta_initial: exponent of the importance-sampling weights at the beginning
    :param beta_final: exponent at the end
    :param beta_fraction: fraction of the training over which beta moves
    :param replay_ratio: gradient steps per transition, whatever the number of environments; it replaces
        ``gradient_steps``, and ``train_freq`` says after how many vectorised steps those that are due are done.
        SB3's ``train_freq`` counts vectorised steps: with ``replay_ratio=None``, 8 environments train 8 times less per
        transition than 1
    :param overlap: do gradient steps while the environments step, see :class:`~sb3_distrl.common.overlap.Overlapping`;
        with SubprocVecEnv both run side by side. ``False`` is SB3's order
    :param precision: of the passes through the networks: "float32", or "bf16" (bfloat16 by autocast, with parameters, losses
        and projections in float32), which is faster where the processor computes in it
    :param compile: compile the loss with its passes through the networks by ``torch.compile``, when it is first computed
    :param risk: the measure of the return that actions maximise, see :class:`~sb3_distrl.common.acting.Acting`: "mean",
        "cvar:0.25" (of the worst 25%), "wang:-0.75", "power:-2", "cpw:0.71", "norm:3", or a
        :class:`~sb3_distrl.functional.risk.Distortion`
    :param bootstrap_risk: that by which targets choose the next action; ``None``: the same, as in IQN's paper
    :raises ValueError: for arguments out of range
    """

    _learning = False  # whether learn() is at work

    def __init__(
        self,
        policy: str | type[BasePolicy],
        env: GymEnv | str | None,
        *,
        double_q: bool,
        prioritized: bool,
        alpha: float,
        beta_initial: float,
        beta_final: float,
        beta_fraction: float,
        replay_ratio: float | None,
        overlap: bool,
        precision: str,
        compile: bool,
        risk: str | Distortion,
        bootstrap_risk: str | Distortion | None,
        verbose: int,
        **dqn_arguments: Any,
    ) -> None:
        self.double_q = double_q
        self.prioritized = prioritized
        self.alpha = alpha
        self.beta_initial = beta_initial
        self.beta_final = beta_final
        self.beta_fraction = beta_fraction
        self.replay_ratio = replay_ratio
        self.overlap = overlap
        self.precision = precision
        self.compile = compile
        self.risk = risk
        self.bootstrap_risk = bootstrap_risk
        self._gradient_steps_due = 0.0
        self._metrics = RunningMetrics()
        self._final_observations = FinalObservations()
        self._logger = Logger(folder=None, output_formats=[])  # until learn() makes one, for train() without it
        super().__init__(policy, env, verbose=verbose, **dqn_arguments)  # type: ignore[arg-type]

    # Set-up

    @staticmethod
    def _wrap_env(env: GymEnv, verbose: int = 0, monitor_wrapper: bool = True) -> VecEnv:
        """Wrap an environment that the constructor, ``load()`` or ``set_env()`` is given, as in SB3."""
        refuse_vector_env(env)
        if isinstance(env, (Env, VecEnv)):  # or SB3 says that it is none
            check_spaces(env.observation_space, env.action_space)
        return Acting._wrap_env(env, verbose, monitor_wrapper)

    def _setup_model(self) -> None:
        take_numbers(self)
        self._check_arguments()
        if self.device.type == "cpu":
            keep_freed_memory()
        self.replay_buffer_class = self.replay_buffer_class or default_class(self.observation_space)
        if self.replay_buffer is None and issubclass(self.replay_buffer_class, PrioritizedReplayBuffer):
            self.replay_buffer = make_replay_buffer(self, self.replay_buffer_class)
        given = dict(n_steps=self.n_steps, policy_kwargs=self.policy_kwargs)
        self.n_steps = 1  # SB3 would warn that it ignores n_steps: the buffer has it
        self.policy_kwargs = self._policy_arguments()
        super()._setup_model()
        vars(self).update(given)
        copy_buffers(self.q_net, self.q_net_target)  # the policy copies only those that are saved
        if self.exploration_fraction == 0:  # SB3's schedule would divide by it
            self.exploration_schedule = ConstantSchedule(self.exploration_final_eps)

    def _policy_arguments(self) -> dict[str, Any]:
        """:return: arguments for the policy, made of ``policy_kwargs``, which stay as they were given"""
        return policy_arguments(self.policy_kwargs)

    def buffer_settings(self) -> dict[str, float]:
        """:return: arguments of this library's buffers that the algorithm has as well"""
        return dict(n_steps=self.n_steps, gamma=self.gamma, alpha=self.alpha if self.prioritized else 0.0)

    def _check_arguments(self) -> None:
        """:raises ValueError: naming the argument, its value and the remedy"""
        self.risk, self.bootstrap_risk = self.risk, self.bootstrap_risk  # load() may have put a name there
        check_arguments(self)

    def _setup_learn(
        self,
        total_timesteps: int,
        callback: MaybeCallback = None,
        reset_num_timesteps: bool = True,
        tb_log_name: str = "run",
        progress_bar: bool = False,
    ) -> tuple[int, BaseCallback]:
        buffer = self.replay_buffer
        assert buffer is not None
        check_replay_buffer(self, buffer)
        if reset_num_timesteps or self._last_obs is None:  # SB3 resets the environment in these cases
            end_episodes(buffer)
        if self.env is not None:
            discard_unread(self.env)
        optimize_memory_usage = self.optimize_memory_usage
        if isinstance(buffer, PrioritizedReplayBuffer):
            self.optimize_memory_usage = False  # SB3 would do likewise to its own buffer, with a warning
        try:
            return super()._setup_learn(total_timesteps, callback, reset_num_timesteps, tb_log_name, progress_bar)
        finally:
            self.optimize_memory_usage = optimize_memory_usage

    # Collecting

    def _store_transition(
        self,
        replay_buffer: ReplayBuffer,
        buffer_action: np.ndarray,
        new_obs: np.ndarray | dict[str, np.ndarray],
        reward: np.ndarray,
        dones: np.ndarray,
        infos: list[dict[str, Any]],
    ) -> None:
        """
        Store a transition, as in SB3, which asks VecNormalize for the original observations. They have the wrong shape where
        SB3 wrapped VecNormalize in VecTransposeImage. With ``norm_obs=False`` the model's are the original ones.
        """
        assert self.env is not None
        self._final_observations.look(self.env, dones)
        normalize = self._vec_normalize_env
        if normalize is None or normalize.norm_obs:
            super()._store_transition(replay_buffer, buffer_action, new_obs, reward, dones, infos)
            return
        self._vec_normalize_env = None
        try:
            reward = normalize.get_original_reward()
            super()._store_transition(replay_buffer, buffer_action, new_obs, reward, dones, infos)
        finally:
            self._vec_normalize_env = normalize

    # Learning

    @property
    def beta(self) -> float:
        """The exponent of the importance-sampling weights at this point of the training."""
        beta = LinearSchedule(self.beta_initial, self.beta_final, self.beta_fraction)(self._current_progress_remaining)
        return sorted((self.beta_initial, beta, self.beta_final))[1]  # rounding may take it beyond them

    @abstractmethod
    def _loss(self, batch: Samples, bootstrap: th.Tensor) -> Loss:
        """
        :param batch: n-step transitions, with preprocessed observations
        :param bootstrap: what the value of the next state counts, gamma^n, and 0 after a termination; shape [B, 1]
        :return: losses, priorities and values of the batch
        """

    def _on_step(self) -> None:
        super()._on_step()
        if self._n_calls % max(self.target_update_interval // self.n_envs, 1) == 0:  # when SB3 updates the target network
            copy_buffers(self.q_net, self.q_net_target)
        if self.replay_ratio is not None and self.num_timesteps > self.learning_starts:
            self._gradient_steps_due += self.replay_ratio * self.n_envs

    def _due(self) -> int:
        """:return: gradient steps that ``replay_ratio`` asks for now"""
        return int(self._gradient_steps_due + 1e-6)  # 10 times 0.1 is less than 1

    def _train(self, gradient_steps: int, batch_size: int) -> None:
        if self.replay_ratio is not None and self._learning:
            gradient_steps = self._due()
            self._gradient_steps_due -= gradient_steps
        self.policy.set_training_mode(True)
        self._update_learning_rate(self.policy.optimizer)
        for _ in range(gradient_steps):
            self._gradient_step(self._sample(batch_size))
            self._n_updates += 1
        self.logger.record("train/n_updates", self._n_updates, exclude="tensorboard")
        if self._metrics.count // LOG_EVERY > (self._metrics.count - gradient_steps) // LOG_EVERY:
            self._record_metrics()

    def _sample(self, batch_size: int) -> Samples:
        assert self.replay_buffer is not None
        kwargs = dict(beta=self.beta) if self.prioritized else {}
        return self._preprocessed(self.replay_buffer.sample(batch_size, env=self._vec_normalize_env, **kwargs))

    def _preprocessed(self, batch: Samples) -> Samples:
        obs, next_obs = self._inputs(batch.observations), self._inputs(batch.next_observations)
        return batch._replace(observations=obs, next_observations=next_obs)  # type: ignore[arg-type]

    def _inputs(self, obs: PyTorchObs) -> PyTorchObs:
        """
        :param obs: shape [B, ...]
        :return: preprocessed by the online network, once for all passes, and outside of what is compiled
        """
        own = type(self.q_net).preprocess is not ValueNetwork.preprocess  # which may depend on the layout
        return self.q_net.preprocess(obs if own else fastest_layout(obs, self.q_net))

    def _evaluate(self, batch: Samples) -> Loss:
        """
        :param batch: preprocessed
        :return: what the algorithm's loss says of it
        """
        discounts = self.gamma if batch.discounts is None else batch.discounts
        loss_fn = compiled(type(self)._loss, self.device.type) if self.compile else type(self)._loss
        return loss_fn(self, batch, (1 - batch.dones) * discounts)

    def _gradient_step(self, batch: Samples) -> None:
        losses, priorities, q_values, metrics = self._evaluate(batch)
        if self.prioritized:
            assert isinstance(batch, PrioritizedReplayBufferSamples)
            weights = batch.weights.squeeze(1)
            loss = (weights * losses).mean()
            metrics = {**metrics, "weight_mean": weights.mean()}
        else:
            loss = losses.mean()

        optimizer, measure = self.policy.optimizer, self._metrics.count % NORM_EVERY == 0
        seen = {"priorities": priorities.max()} if self.prioritized else {}
        try:
            metrics = {**metrics, **take_step(optimizer, self.q_net, loss, seen, self.max_grad_norm, measure)}
            if self.prioritized:
                priorities = priorities.cpu()  # which the buffer needs anyway
                if "skipped" in metrics:
                    check_seen({"priorities": priorities.max()})
        except NotFinite as error:
            what = f"{error} is not finite in gradient step {self._n_updates + 1}"
            raise refusal(what, self.q_net, optimizer.param_groups[0]["lr"], batch) from None
        if self.prioritized:
            self.replay_buffer.update_priorities(batch.indices, priorities)  # type: ignore[union-attr]
        self._metrics.add({"loss": loss, "q_mean": q_values.mean(), **metrics})

    # Logging and saving

    def _record_metrics(self) -> dict[str, float]:
        """
        Hand the metrics since the last log to the logger, as ``train/<name>``.

        :return: them
        """
        metrics = self._metrics.values()
        if skipped := metrics.pop("skipped", 0.0):
            steps, self._metrics = self._metrics.count, RunningMetrics()
            what = f"Losses or gradients were not finite in {skipped:.1%} of the last {steps} gradient steps"
            raise refusal(what, self.q_net, self.policy.optimizer.param_groups[0]["lr"])
        for name, value in metrics.items():
            self.logger.record(f"train/{name}", value)
        if self.prioritized:
            self.logger.record("train/beta", self.beta)
        return metrics

    def dump_logs(self) -> None:
        self._record_metrics()
        self._metrics = RunningMetrics()
        super().dump_logs()

    def learn(
        self: SelfValueAlgorithm,
        total_timesteps: int = 50_000_000,
        callback: MaybeCallback = None,
        log_interval: int = 4,
        tb_log_name: str | None = None,
        reset_num_timesteps: bool = True,
        progress_bar: bool = False,
    ) -> SelfValueAlgorithm:
        """
        Learn; arguments as in SB3, but for two defaults.

        :param total_timesteps: environment steps over all environments; by default the budget of the papers, 200M Atari
            frames, which the schedules' default fractions are made for
        :param callback: called at every step
        :param log_interval: episodes between logs
        :param tb_log_name: name of the TensorBoard run; by default that of the algorithm
        :param reset_num_timesteps: start anew, or go on counting
        :param progress_bar: show one (needs tqdm and rich)
        :return: the model
        """
        tb_log_name = tb_log_name or type(self).__name__
        updates, self._learning = self._n_updates, True
        try:
            super().learn(total_timesteps, callback, log_interval, tb_log_name, reset_num_timesteps, progress_bar)
        finally:
            self._learning = False
        if "skipped" in self._metrics.totals:
            self._record_metrics()  # raises if a step was skipped
        if self._n_updates == updates and self._num_timesteps_at_start < self.num_timesteps >= self._total_timesteps:
            warn_of_no_gradient_step(self, total_timesteps, self._due())
        return self

    def _excluded_save_params(self) -> list[str]:
        return [*super()._excluded_save_params(), "_metrics", "_learning", "_final_observations"]
