"""The base class of all algorithms."""

from abc import abstractmethod
from contextlib import AbstractContextManager, nullcontext
from typing import Any, TypeVar
from weakref import WeakMethod

import numpy as np
import torch as th
from stable_baselines3 import HerReplayBuffer
from stable_baselines3.common.buffers import ReplayBuffer
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.logger import Logger
from stable_baselines3.common.policies import BasePolicy
from stable_baselines3.common.type_aliases import GymEnv, MaybeCallback, PyTorchObs, RolloutReturn, TrainFreq
from stable_baselines3.common.utils import ConstantSchedule, LinearSchedule
from stable_baselines3.common.vec_env import VecEnv

from sb3_distrl.buffers import PrioritizedReplayBuffer
from sb3_distrl.common.acceleration import keep_freed_memory
from sb3_distrl.common.arguments import check_arguments, policy_arguments, take_numbers
from sb3_distrl.common.episodes import end_episodes
from sb3_distrl.common.final_observations import FinalObservations
from sb3_distrl.common.gradient_steps import SKIPPED, gradient_step, preprocess, skipped_steps, warn_of_no_gradient_step
from sb3_distrl.common.loss import Loss, Samples
from sb3_distrl.common.metrics import RunningMetrics
from sb3_distrl.common.model import ValueModel
from sb3_distrl.common.overlap import OverlapVecEnv
from sb3_distrl.common.policies import OutputNetwork, copy_buffers
from sb3_distrl.common.replay import check_replay_buffer, make_replay_buffer
from sb3_distrl.common.stopping import StopAfterStoring, StoppableFreq
from sb3_distrl.common.subproc import discard_unread
from sb3_distrl.functional import Distortion, gather_actions
from sb3_distrl.networks import Noise

SelfValueAlgorithm = TypeVar("SelfValueAlgorithm", bound="ValueAlgorithm")

NORM_EVERY = 10  # gradient steps between gradient norms if gradients are not clipped: a norm only for the log costs time
NOT_SAVED = "_metrics", "_learning", "_final_observations", "_defer_next", "_overlap_env"
LOG_EVERY = 100  # gradient steps between transfers of metrics from the device, unless logs are written more often


class ValueAlgorithm(ValueModel):
    """
    Value-based learning in SB3: sampling, weighting, replay ratio, logging, and gradient steps while environments step.

    A subclass implements :meth:`loss`, and may override :meth:`targets`, :meth:`select_actions` and :meth:`policy_arguments`.

    All arguments of SB3's DQN keep their meaning, with two exceptions: epsilon-greedy draws separately for each environment of
    a vectorised step, and each update of the target network also copies the online network's buffers (e.g. batch normalisation
    statistics), whatever ``tau``. Additional arguments:

    :param optimize_memory_usage: store each frame of a stack once in this library's replay buffers; ``None``: for images only
    :param n_steps: rewards in a return (Sutton 1988), in environment steps
    :param double_q: choose the next action with the online network (van Hasselt et al. 2016)
    :param prioritized: prioritized replay (Schaul et al. 2016); otherwise uniform
    :param alpha: how much priorities count in sampling, from 0 (not at all) to 1
    :param beta_initial: initial exponent of the importance-sampling weights
    :param beta_final: final exponent
    :param beta_fraction: fraction of the training over which beta is annealed
    :param replay_ratio: gradient steps per transition, whatever the number of environments. It replaces ``gradient_steps``;
        ``train_freq`` then says after how many vectorised steps the due gradient steps are done. With ``replay_ratio=None``,
        ``train_freq`` counts vectorised steps as in SB3, so 8 environments train 8 times less per transition than 1
    :param overlap: do gradient steps while the environments step, see :class:`~sb3_distrl.common.overlap.OverlapVecEnv`; with
        SubprocVecEnv both run in parallel. ``False`` is SB3's order
    :param precision: of the forward and backward passes: "float32", or "bf16" (bfloat16 by autocast; parameters, losses and
        projections stay in float32), which is faster on processors that support it
    :param compile: compile the loss, including its passes through the networks, with ``torch.compile`` on first use
    :param risk: the risk measure of the return that actions maximise, see :class:`~sb3_distrl.common.model.ValueModel`:
        "mean", "cvar:0.25" (of the worst 25%), "wang:-0.75", "power:-2", "cpw:0.71", "norm:3", or a
        :class:`~sb3_distrl.functional.risk.Distortion`
    :param bootstrap_risk: the risk measure by which targets choose the next action; ``None``: ``risk``, as in the IQN paper
    :raises ValueError: for arguments out of range
    """

    _learning = False  # whether learn() is running
    _deferred_steps = 0  # gradient steps to do during the next environment step
    _defer_next = False  # whether the next train() defers its gradient steps
    _overlap_env: OverlapVecEnv | None = None

    def __init__(
        self,
        policy: str | type[BasePolicy],
        env: GymEnv | str | None,
        *,
        double_q: bool = False,
        prioritized: bool = False,
        alpha: float = 0.5,
        beta_initial: float = 0.4,
        beta_final: float = 1.0,
        beta_fraction: float = 1.0,
        replay_ratio: float | None = None,
        overlap: bool = True,
        precision: str = "float32",
        compile: bool = False,
        risk: str | Distortion = "mean",
        bootstrap_risk: str | Distortion | None = None,
        verbose: int = 0,
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
        self._logger = Logger(folder=None, output_formats=[])  # for train() before learn() creates one
        super().__init__(policy, env, verbose=verbose, **dqn_arguments)  # type: ignore[arg-type]

    def _setup_model(self) -> None:
        take_numbers(self)
        self._check_arguments()
        self._deferred_steps = vars(self).pop("_put_off", self._deferred_steps)  # its name in files saved by 0.1.0
        if self.device.type == "cpu":
            keep_freed_memory()
        make_replay_buffer(self)
        given = dict(n_steps=self.n_steps, policy_kwargs=self.policy_kwargs)
        self.n_steps, self.policy_kwargs = 1, self.policy_arguments()  # with n_steps > 1 SB3 would warn; our buffer handles it
        super()._setup_model()
        vars(self).update(given)
        copy_buffers(self.q_net, self.q_net_target)  # the policy's load_state_dict copies persistent buffers only
        if self.exploration_fraction == 0:  # SB3's schedule would divide by it
            self.exploration_schedule = ConstantSchedule(self.exploration_final_eps)

    def policy_arguments(self) -> dict[str, Any]:
        """:return: arguments for the policy, made from ``policy_kwargs``, which are not changed"""
        return policy_arguments(self.policy_kwargs)

    def buffer_settings(self) -> dict[str, float]:
        """:return: arguments of this library's buffers that are arguments of the algorithm, too"""
        return dict(n_steps=self.n_steps, gamma=self.gamma, alpha=self.alpha if self.prioritized else 0.0)

    def _check_arguments(self) -> None:
        self.risk, self.bootstrap_risk = self.risk, self.bootstrap_risk  # load() may have set names
        check_arguments(self)

    def _setup_learn(
        self, total_timesteps: int, callback: MaybeCallback = None, reset_num_timesteps: bool = True, *args: Any, **kwargs: Any
    ) -> tuple[int, BaseCallback]:
        buffer = self.replay_buffer
        assert buffer is not None
        check_replay_buffer(self, buffer)
        if reset_num_timesteps or self._last_obs is None:  # SB3 resets the environment in these cases
            end_episodes(buffer)
        if self.env is not None:
            discard_unread(self.env)
        given = self.optimize_memory_usage
        if isinstance(buffer, PrioritizedReplayBuffer):
            self.optimize_memory_usage = False  # SB3 would warn of a problem that only its own buffers have
        try:
            return super()._setup_learn(total_timesteps, callback, reset_num_timesteps, *args, **kwargs)
        finally:
            self.optimize_memory_usage = given

    def collect_rollouts(  # type: ignore[override]
        self, env: VecEnv, callback: BaseCallback, train_freq: TrainFreq, *args: Any, **kwargs: Any
    ) -> RolloutReturn:
        """Collect transitions as in SB3, do deferred gradient steps meanwhile, and store the step at which training stops."""
        self._defer_next, stoppable = False, StoppableFreq(*train_freq)
        overlap = self.overlap and not isinstance(self.replay_buffer, HerReplayBuffer)
        if not overlap:
            self._do_deferred_steps()  # of a loaded model
        else:
            if self._overlap_env is None or self._overlap_env.venv is not env:
                self._overlap_env = OverlapVecEnv(env, WeakMethod(self._do_deferred_steps))
            env = self._overlap_env
        try:
            rollout = super().collect_rollouts(env, StopAfterStoring(callback, stoppable), stoppable, *args, **kwargs)
        except BaseException:
            self._last_obs = None  # the environment may be a step ahead: the next learn() resets it
            raise
        self._defer_next = overlap and not stoppable.stopped and self.num_timesteps < self._total_timesteps
        return rollout._replace(continue_training=not stoppable.stopped)

    def _store_transition(
        self,
        replay_buffer: ReplayBuffer,
        buffer_action: np.ndarray,
        new_obs: np.ndarray | dict[str, np.ndarray],
        reward: np.ndarray,
        dones: np.ndarray,
        infos: list[dict[str, Any]],
    ) -> None:
        # SB3 asks VecNormalize for the original observations, which have the wrong shape if SB3 wrapped VecNormalize in
        # VecTransposeImage. With norm_obs=False new_obs is already the original
        self._final_observations.look(self.env, dones)  # type: ignore[arg-type]
        normalize = self._vec_normalize_env
        try:
            if normalize is not None and not normalize.norm_obs:
                self._vec_normalize_env, reward = None, normalize.get_original_reward()
            super()._store_transition(replay_buffer, buffer_action, new_obs, reward, dones, infos)
        finally:
            self._vec_normalize_env = normalize

    @property
    def beta(self) -> float:
        """The current exponent of the importance-sampling weights."""
        beta = LinearSchedule(self.beta_initial, self.beta_final, self.beta_fraction)(self._current_progress_remaining)
        return sorted((self.beta_initial, beta, self.beta_final))[1]  # rounding may exceed the limits

    @abstractmethod
    def loss(self, batch: Samples, bootstrap: th.Tensor) -> Loss:
        """
        The loss of a batch, to be differentiated. Ape-X actors also compute initial priorities with it, without gradients.

        :param batch: n-step transitions, with observations preprocessed by the online network, shape [B, ...]
        :param bootstrap: discount of the next state's value: gamma^n, or 0 after a termination; shape [B, 1]
        :return: a loss, a priority and a value for each transition
        """

    def targets(self, batch: Samples, bootstrap: th.Tensor) -> Any:
        """
        The targets of :meth:`loss` (same arguments), computed without gradients.

        :return: in QRDQN and IQN samples of the return, shape [B, M]; in Rainbow atoms and probabilities, both [B, Z]
        """
        raise NotImplementedError

    @property
    def target_risk(self) -> Distortion:
        """The risk measure by which targets choose the next action."""
        return self.risk if self.bootstrap_risk is None else self.bootstrap_risk

    def autocast(self) -> AbstractContextManager[Any]:
        """:return: context for passes through the networks in ``precision``; their results may have that precision"""
        return nullcontext() if self.precision == "float32" else th.autocast(self.device.type, th.bfloat16)

    def outputs(self, network: OutputNetwork, inputs: PyTorchObs) -> th.Tensor:
        """:return: the network's outputs in a gradient step: with noise, in ``precision``; shape [B, A, Z], float32"""
        with self.autocast():
            return network.outputs(inputs, Noise.SHARED).float()

    def taken_outputs(self, batch: Samples) -> th.Tensor:
        """:return: the online network's outputs for the actions taken, with gradient, shape [B, Z]"""
        assert isinstance(self.q_net, OutputNetwork)
        return gather_actions(self.outputs(self.q_net, batch.observations).mT, batch.actions.long().squeeze(1))

    def next_outputs(self, batch: Samples) -> th.Tensor:
        """:return: the target network's outputs for greedy next actions (``double_q``: the online network's), shape [B, Z]"""
        assert isinstance(self.q_net, OutputNetwork) and isinstance(self.q_net_target, OutputNetwork)
        outputs = self.outputs(self.q_net_target, batch.next_observations)
        selecting = self.outputs(self.q_net, batch.next_observations) if self.double_q else outputs
        actions = self.select_actions(self.q_net.risk_values(selecting, self.target_risk))
        return gather_actions(outputs.mT, actions)

    def _on_step(self) -> None:
        super()._on_step()
        if self._n_calls % max(self.target_update_interval // self.n_envs, 1) == 0:  # when SB3 updates the target network
            copy_buffers(self.q_net, self.q_net_target)
        if self.replay_ratio is not None and self.num_timesteps > self.learning_starts:
            self._gradient_steps_due += self.replay_ratio * self.n_envs

    def steps_due(self) -> int:
        """:return: gradient steps due under ``replay_ratio``"""
        return int(self._gradient_steps_due + 1e-6)  # ten additions of 0.1 give less than 1

    def train(self, gradient_steps: int, batch_size: int = 32) -> None:
        """Do gradient steps. ``learn()`` defers them with ``overlap``, and with ``replay_ratio`` does those that are due."""
        if self._defer_next:
            self._deferred_steps, self._defer_next = gradient_steps, False
            return
        if self.replay_ratio is not None and self._learning:
            gradient_steps = self.steps_due()
            self._gradient_steps_due -= gradient_steps
        self.policy.set_training_mode(True)
        self._update_learning_rate(self.policy.optimizer)
        for _ in range(gradient_steps):
            self.gradient_step(self.sample(batch_size))
            self._n_updates += 1
        self.logger.record("train/n_updates", self._n_updates, exclude="tensorboard")
        if self._metrics.count // LOG_EVERY > (self._metrics.count - gradient_steps) // LOG_EVERY:
            self._record_metrics()

    def sample(self, batch_size: int) -> Samples:
        """:return: a batch from the replay buffer, normalised and preprocessed, as :meth:`loss` takes it"""
        assert self.replay_buffer is not None
        beta = dict(beta=self.beta) if self.prioritized else {}
        return preprocess(self.q_net, self.replay_buffer.sample(batch_size, env=self._vec_normalize_env, **beta))

    def gradient_step(self, batch: Samples) -> None:
        """Minimise the loss of a batch from :meth:`sample`, update its priorities, and keep the metrics."""
        self._metrics.add(gradient_step(self, batch, measure_norm=self._metrics.count % NORM_EVERY == 0))

    def _do_deferred_steps(self) -> None:
        gradient_steps, self._deferred_steps = self._deferred_steps, 0
        if gradient_steps > 0 and self.replay_buffer.size() > 0:  # type: ignore[union-attr]  # may be loaded without it
            self.train(gradient_steps, self.batch_size)
            self.policy.set_training_mode(False)  # as in SB3 while collecting

    def _record_metrics(self) -> dict[str, float]:
        metrics = self._metrics.values()
        if skipped := metrics.pop(SKIPPED, 0.0):
            steps, self._metrics = self._metrics.count, RunningMetrics()
            raise skipped_steps(self, skipped, steps)
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
        Learn, as in SB3.

        :param total_timesteps: environment steps over all environments; default: the budget of the papers, 200M Atari frames,
            which the default fractions of the schedules assume
        :param tb_log_name: name of the TensorBoard run; default: the algorithm's name
        :return: the model
        """
        updates, self._learning = self._n_updates, True
        name = tb_log_name or type(self).__name__
        try:
            super().learn(total_timesteps, callback, log_interval, name, reset_num_timesteps, progress_bar)
        finally:
            self._learning = False
        if SKIPPED in self._metrics.totals:
            self._record_metrics()  # raises an error about skipped steps
        if self._n_updates == updates:
            warn_of_no_gradient_step(self, total_timesteps)
        return self

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "_overlap_env": None}  # SB3's wrappers cannot be copied, but models should

    def _excluded_save_params(self) -> list[str]:
        return [*super()._excluded_save_params(), *NOT_SAVED]
