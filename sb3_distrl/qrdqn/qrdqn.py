"""QR-DQN (Dabney et al. 2018a)."""

from typing import Any, ClassVar

import torch as th
from stable_baselines3.common.buffers import ReplayBuffer
from stable_baselines3.common.policies import BasePolicy
from stable_baselines3.common.type_aliases import GymEnv, Schedule

from sb3_distrl.common.algorithm import ValueAlgorithm
from sb3_distrl.common.loss import Loss, Samples
from sb3_distrl.common.policies import adam_arguments
from sb3_distrl.functional import Distortion, quantile_huber_loss, quantile_midpoints
from sb3_distrl.qrdqn.policies import CnnPolicy, MlpPolicy, MultiInputPolicy, QRDQNNetwork, QRDQNPolicy, own_policy


class QRDQN(ValueAlgorithm):
    """
    Distributional Reinforcement Learning with Quantile Regression (Dabney et al. 2018a, https://arxiv.org/abs/1710.10044):
    sb3-contrib's QRDQN with the same defaults and results, to the bit. ``double_q``, ``prioritized``, ``n_steps``, and in
    ``policy_kwargs`` ``dueling`` and ``noisy`` add Rainbow's components. It loads models saved by sb3-contrib's QRDQN, and
    accepts its policy names and classes.

    The priority of a transition is its quantile Huber loss, which is what the algorithm minimises.

    :param policy: MlpPolicy, CnnPolicy, MultiInputPolicy, or a class
    :param env: environment, or the name of a registered one
    :param policy_kwargs: ``n_quantiles=200, dueling=False, noisy=False``, and those of SB3's DQN; Adam's eps is 0.01 /
        batch_size unless given
    :raises ValueError: for arguments out of range

    Other arguments are those of :class:`~sb3_distrl.common.algorithm.ValueAlgorithm` and of sb3-contrib's QRDQN.
    """

    policy_aliases: ClassVar[dict[str, type[BasePolicy]]] = {
        "MlpPolicy": MlpPolicy,
        "CnnPolicy": CnnPolicy,
        "MultiInputPolicy": MultiInputPolicy,
    }
    policy: QRDQNPolicy  # type: ignore[assignment]
    q_net: QRDQNNetwork  # type: ignore[assignment]
    q_net_target: QRDQNNetwork  # type: ignore[assignment]
    # sb3-contrib's names, which its policy has, too
    quantile_net = QRDQNPolicy.quantile_net
    quantile_net_target = QRDQNPolicy.quantile_net_target
    n_quantiles = QRDQNPolicy.n_quantiles

    def __init__(
        self,
        policy: str | type[QRDQNPolicy],
        env: GymEnv | str | None,
        learning_rate: float | Schedule = 5e-5,
        buffer_size: int = 1_000_000,
        learning_starts: int = 100,
        batch_size: int = 32,
        tau: float = 1.0,
        gamma: float = 0.99,
        train_freq: int | tuple[int, str] = 4,
        gradient_steps: int = 1,
        replay_buffer_class: type[ReplayBuffer] | None = None,
        replay_buffer_kwargs: dict[str, Any] | None = None,
        optimize_memory_usage: bool | None = None,
        n_steps: int = 1,
        target_update_interval: int = 10_000,
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
        exploration_fraction: float = 0.005,
        exploration_initial_eps: float = 1.0,
        exploration_final_eps: float = 0.01,
        max_grad_norm: float | None = None,
        stats_window_size: int = 100,
        tensorboard_log: str | None = None,
        policy_kwargs: dict[str, Any] | None = None,
        verbose: int = 0,
        seed: int | None = None,
        device: th.device | str = "auto",
        _init_setup_model: bool = True,
    ) -> None:
        super().__init__(**{name: value for name, value in locals().items() if name not in ("self", "__class__")})

    def _setup_model(self) -> None:
        self.policy_class = own_policy(self.policy_class)  # models saved by sb3-contrib have its class
        super()._setup_model()

    def policy_arguments(self) -> dict[str, Any]:
        arguments = super().policy_arguments()
        optimizer_class, given = arguments.get("optimizer_class", th.optim.Adam), arguments.get("optimizer_kwargs")
        arguments["optimizer_kwargs"] = adam_arguments(optimizer_class, given, eps=0.01 / self.batch_size)
        return arguments

    def targets(self, batch: Samples, bootstrap: th.Tensor) -> th.Tensor:
        return batch.rewards + bootstrap * self.next_outputs(batch)  # [B, N]

    def loss(self, batch: Samples, bootstrap: th.Tensor) -> Loss:
        quantiles = self.taken_outputs(batch)  # [B, N]
        with th.no_grad():
            targets = self.targets(batch, bootstrap)
        losses = quantile_huber_loss(quantiles, targets, quantile_midpoints(targets.shape[1], self.device))
        return Loss(losses, losses.detach(), quantiles.detach().mean(dim=1))
