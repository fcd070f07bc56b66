"""The base of all algorithms: SB3's DQN with everything around the loss that distributional variants share."""

import inspect
from abc import abstractmethod
from typing import Any, TypeVar

import numpy as np
import torch as th
from gymnasium import spaces
from stable_baselines3.common.base_class import maybe_make_env
from stable_baselines3.common.buffers import ReplayBuffer
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.policies import BasePolicy
from stable_baselines3.common.preprocessing import is_image_space, preprocess_obs
from stable_baselines3.common.type_aliases import GymEnv, MaybeCallback, PyTorchObs
from stable_baselines3.common.utils import LinearSchedule

from sb3_distrl.buffers import PrioritizedDictReplayBuffer, PrioritizedReplayBuffer, PrioritizedReplayBufferSamples
from sb3_distrl.checks import check_at_least, check_fraction
from sb3_distrl.common.acceleration import channels_last, check_acceleration, clip_gradients, compiled, keep_freed_memory
from sb3_distrl.common.acting import Acting
from sb3_distrl.common.loss import Loss, Samples
from sb3_distrl.common.metrics import RunningMetrics
from sb3_distrl.functional import Distortion
from sb3_distrl.networks import HIDDEN

SelfValueAlgorithm = TypeVar("SelfValueAlgorithm", bound="ValueAlgorithm")

NORM_EVERY = 10  # gradient steps between norms of gradients, where none are clipped: a pass over the memory for a log
LOG_EVERY = 100  # gradient steps between transfers of metrics from the device, where no log is written before


class ValueAlgorithm(Acting):
    """
    Value-based learning in SB3: sampling, weighting, replay ratio, logging. Subclasses bring the loss.

    All arguments that SB3's DQN has keep their meaning, except that epsilon is drawn for each environment of a
    vectorised step on its own. These come on top:

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
        if env is not None:
            env = maybe_make_env(env, verbose)
            if not isinstance(env.action_space, spaces.Discrete):
                raise ValueError(
                    f"env has action_space={env.action_space}, but value-based algorithms need a Discrete one: "
                    "discretise the actions in a wrapper, or use an algorithm for continuous actions such as SAC."
                )
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
        super().__init__(policy, env, verbose=verbose, **dqn_arguments)  # type: ignore[arg-type]

    # Set-up

    def _setup_model(self) -> None:
        self._check_arguments()
        if self.device.type == "cpu":
            keep_freed_memory()
        if self.replay_buffer_class is None:
            is_dict = isinstance(self.observation_space, spaces.Dict)
            self.replay_buffer_class = PrioritizedDictReplayBuffer if is_dict else PrioritizedReplayBuffer
        if self.replay_buffer is None and issubclass(self.replay_buffer_class, PrioritizedReplayBuffer):
            self.replay_buffer = self._make_replay_buffer(self.replay_buffer_class)
        # SB3 would warn that it ignores n_steps: the buffer has it
        n_steps, self.n_steps = self.n_steps, 1
        super()._setup_model()
        self.n_steps = n_steps

    def _make_replay_buffer(self, buffer_class: type[PrioritizedReplayBuffer]) -> PrioritizedReplayBuffer:
        return buffer_class(
            self.buffer_size,
            self.observation_space,
            self.action_space,
            device=self.device,
            n_envs=self.n_envs,
            optimize_memory_usage=self._has_images() if self.optimize_memory_usage is None else self.optimize_memory_usage,
            **{**self._buffer_settings(), **self.replay_buffer_kwargs},
        )

    def _buffer_settings(self) -> dict[str, float]:
        """:return: arguments of this library's buffers that the algorithm has as well"""
        return dict(n_steps=self.n_steps, gamma=self.gamma, alpha=self.alpha if self.prioritized else 0.0)

    def _has_images(self) -> bool:
        space = self.observation_space
        return any(is_image_space(part) for part in (space.values() if isinstance(space, spaces.Dict) else [space]))

    def _check_arguments(self) -> None:
        """
        :raises ValueError: naming the argument, its value and the remedy
        """
        self.risk, self.bootstrap_risk = self.risk, self.bootstrap_risk  # load() may have put a name there
        own_policy = self.policy_aliases["MlpPolicy"]
        if not issubclass(self.policy_class, own_policy):
            raise ValueError(
                f"policy={self.policy_class.__name__} is no policy of {type(self).__name__}: use one of "
                f"{', '.join(self.policy_aliases)}, a subclass of them, or the algorithm that the model was saved by."
            )
        check_at_least("n_steps", self.n_steps, 1, "use 1 for one-step returns")
        check_at_least("alpha", self.alpha, 0, "use 0.5, or prioritized=False for uniform sampling")
        check_at_least("batch_size", self.batch_size, 1, "use e.g. 32")
        check_at_least("target_update_interval", self.target_update_interval, 1, "use a number of environment steps")
        check_fraction("gamma", self.gamma, "use a discount factor such as 0.99", zero=True)
        check_fraction("tau", self.tau, "use 1 to copy the network to the target network")
        check_fraction("beta_initial", self.beta_initial, "the paper uses 0.4", zero=True)
        check_fraction("beta_final", self.beta_final, "the paper uses 1", zero=True)
        check_fraction("beta_fraction", self.beta_fraction, "use 1 for the whole training")
        check_fraction("exploration_fraction", self.exploration_fraction, "use the fraction of the training that explores")
        check_fraction("exploration_initial_eps", self.exploration_initial_eps, "it is a probability", zero=True)
        check_fraction("exploration_final_eps", self.exploration_final_eps, "it is a probability", zero=True)
        if self.replay_ratio is not None:
            if not self.replay_ratio > 0:
                raise ValueError(f"replay_ratio={self.replay_ratio} must be positive: use gradient steps per transition.")
            if self.gradient_steps != 1:
                raise ValueError(
                    f"gradient_steps={self.gradient_steps} and replay_ratio={self.replay_ratio} contradict each other: "
                    "set only one of them."
                )
        check_acceleration(self.precision, self.compile, self.device)
        buffer_class = self.replay_buffer_class or PrioritizedReplayBuffer
        self._check_priorities(buffer_class)
        self._check_buffer_settings(buffer_class)

    def _check_priorities(self, buffer_class: type[ReplayBuffer]) -> None:
        """
        :param buffer_class: of the buffer to train with
        :raises ValueError: if the algorithm needs priorities, and the buffer has none
        """
        if self.prioritized and not hasattr(buffer_class, "update_priorities"):
            raise ValueError(
                f"replay_buffer_class={buffer_class.__name__} has no priorities: use prioritized=False, or "
                "replay_buffer_class=None for this library's buffer."
            )

    def _check_buffer_settings(self, buffer_class: type[ReplayBuffer]) -> None:
        """
        :param buffer_class: given by the user, who has to tell buffers other than this library's of n_steps and gamma
        :raises ValueError: if the buffer's returns would not be the algorithm's, or a setting would have no effect
        """
        if "beta" in self.replay_buffer_kwargs:
            raise ValueError(
                f"replay_buffer_kwargs has beta={self.replay_buffer_kwargs['beta']}, but the algorithm schedules beta: "
                "set beta_initial and beta_final instead."
            )
        own, settings = issubclass(buffer_class, PrioritizedReplayBuffer), self._buffer_settings()
        told = settings
        if not own:
            settings = dict(n_steps=self.n_steps, gamma=self.gamma)
            parameters = inspect.signature(buffer_class).parameters
            defaults = {name: parameters[name].default for name in settings if name in parameters}
            told = {"n_steps": 1, "gamma": self.gamma, **defaults}
        for name, value in settings.items():
            if self.replay_buffer_kwargs.get(name, told[name]) != value:
                remedy = f"use replay_buffer_class=None for ours, or set the same {name} in replay_buffer_kwargs"
                if own:
                    remedy = f"leave {name} out of replay_buffer_kwargs"
                elif name not in parameters:  # e.g. SB3's HerReplayBuffer, for which it would be a TypeError
                    remedy = f"use replay_buffer_class=None for ours, or {name}={told[name]}"
                raise ValueError(f"{name}={value} is not known to replay_buffer_class={buffer_class.__name__}: {remedy}.")

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
        self._check_replay_buffer(buffer)
        optimize_memory_usage = self.optimize_memory_usage
        if isinstance(buffer, PrioritizedReplayBuffer):
            if reset_num_timesteps or self._last_obs is None:  # SB3 resets the environment in these cases
                buffer.end_episodes()
            self.optimize_memory_usage = False  # SB3 would do likewise to its own buffer, with a warning
        try:
            return super()._setup_learn(total_timesteps, callback, reset_num_timesteps, tb_log_name, progress_bar)
        finally:
            self.optimize_memory_usage = optimize_memory_usage

    def _check_replay_buffer(self, buffer: ReplayBuffer) -> None:
        """
        :param buffer: to train with, which may have been loaded
        :raises ValueError: if it does not belong to the model and its environments, or does not fit into memory
        """
        self._check_priorities(type(buffer))
        if buffer.n_envs != self.n_envs:
            raise ValueError(
                f"The replay buffer has n_envs={buffer.n_envs}, the environment {self.n_envs}: load the model "
                "with as many environments as the buffer was filled by, or train with a new buffer."
            )
        if isinstance(buffer, PrioritizedReplayBuffer):
            for name, value in self._buffer_settings().items():
                if getattr(buffer, name) != value:
                    raise ValueError(
                        f"{name}={value} is not that of the replay buffer, {getattr(buffer, name)}: load the model with the "
                        f"settings that the buffer was filled with, e.g. load(path, {name}={getattr(buffer, name)}), or "
                        "train with a new buffer."
                    )
            buffer.check_memory()

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
        Store a transition, as in SB3.

        SB3 asks VecNormalize for the original observations. They have the wrong shape where a wrapper around VecNormalize
        changes observations, such as the VecTransposeImage that SB3 adds itself. With ``norm_obs=False``, the observations
        that the model sees are the original ones, and are stored.
        """
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
        schedule = LinearSchedule(self.beta_initial, self.beta_final, self.beta_fraction)
        return schedule(self._current_progress_remaining)

    @abstractmethod
    def _loss(self, batch: Samples, bootstrap: th.Tensor) -> Loss:
        """
        :param batch: n-step transitions, with preprocessed observations
        :param bootstrap: what the value of the next state counts, gamma^n, and 0 after a termination; shape [B, 1]
        :return: losses, priorities and values of the batch
        """

    def _on_step(self) -> None:
        super()._on_step()
        if self.replay_ratio is not None and self.num_timesteps > self.learning_starts:
            self._gradient_steps_due += self.replay_ratio * self.n_envs

    def _due(self) -> int:
        """:return: gradient steps that ``replay_ratio`` asks for now"""
        return int(self._gradient_steps_due + 1e-6)  # 10 times 0.1 is less than 1

    def _train(self, gradient_steps: int, batch_size: int) -> None:
        if self.replay_ratio is not None:
            gradient_steps = self._due()
            self._gradient_steps_due -= gradient_steps
        self.policy.set_training_mode(True)
        self._update_learning_rate(self.policy.optimizer)
        for _ in range(gradient_steps):
            self._gradient_step(self._sample(batch_size))
        self._n_updates += gradient_steps
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
        :return: preprocessed, once for all passes, and outside of what is compiled
        """
        if self.device.type == "cpu" and type(self.q_net.features_extractor) in HIDDEN:  # others may depend on the layout
            obs = channels_last(obs)  # type: ignore[arg-type]
        return preprocess_obs(obs, self.observation_space, normalize_images=self.policy.normalize_images)

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

        self.policy.optimizer.zero_grad()
        loss.backward()
        if self.max_grad_norm is not None or self._metrics.count % NORM_EVERY == 0:
            metrics = {**metrics, "grad_norm": clip_gradients(self.q_net, self.max_grad_norm)}
        self.policy.optimizer.step()

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
        return super().learn(total_timesteps, callback, log_interval, tb_log_name, reset_num_timesteps, progress_bar)

    def _excluded_save_params(self) -> list[str]:
        return [*super()._excluded_save_params(), "_metrics"]
