"""IQN (Dabney et al. 2018b)."""

from typing import Any, ClassVar

import torch as th
from stable_baselines3.common.buffers import ReplayBuffer
from stable_baselines3.common.policies import BasePolicy
from stable_baselines3.common.type_aliases import GymEnv, Schedule

from sb3_distrl.common.algorithm import ValueAlgorithm
from sb3_distrl.common.loss import Loss, Samples
from sb3_distrl.functional import Distortion, gather_actions, quantile_huber_loss
from sb3_distrl.iqn.policies import CnnPolicy, IQNNetwork, IQNPolicy, MlpPolicy, MultiInputPolicy
from sb3_distrl.networks import Noise
from sb3_distrl.validation import check_at_least


class IQN(ValueAlgorithm):
    """
    Implicit Quantile Networks for Distributional Reinforcement Learning (Dabney et al. 2018b,
    https://arxiv.org/abs/1806.06923).

    Defaults are the paper's for Atari, where a step is four frames: epsilon falls to 0.01 over the first 250k of 50M steps.
    ``double_q``, ``prioritized``, ``n_steps``, and in ``policy_kwargs`` ``dueling`` and ``noisy`` add Rainbow's components.
    With noisy layers set ``exploration_initial_eps=exploration_final_eps=0``.

    The priority of a transition is its quantile Huber loss, which is what the algorithm minimises.

    :param policy: MlpPolicy, CnnPolicy, MultiInputPolicy, or a class
    :param env: environment, or the name of a registered one
    :param kappa: threshold between the quadratic and the linear part of the quantile Huber loss, in units of return
    :param policy_kwargs: ``n_quantiles=64, n_target_quantiles=64, n_eval_quantiles=32, n_cos=64, dueling=False, noisy=False``,
        see :class:`~sb3_distrl.iqn.policies.IQNPolicy`, and those of SB3's DQN
    :raises ValueError: for arguments out of range

    Other arguments are those of :class:`~sb3_distrl.common.algorithm.ValueAlgorithm` and of SB3's DQN.
    """

    policy_aliases: ClassVar[dict[str, type[BasePolicy]]] = {
        "MlpPolicy": MlpPolicy,
        "CnnPolicy": CnnPolicy,
        "MultiInputPolicy": MultiInputPolicy,
    }
    policy: IQNPolicy  # type: ignore[assignment]
    q_net: IQNNetwork  # type: ignore[assignment]
    q_net_target: IQNNetwork  # type: ignore[assignment]

    def __init__(
        self,
        policy: str | type[IQNPolicy],
        env: GymEnv | str | None,
        learning_rate: float | Schedule = 5e-5,
        buffer_size: int = 1_000_000,
        learning_starts: int = 50_000,
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
        kappa: float = 1.0,
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
        arguments = {name: value for name, value in locals().items() if name not in ("self", "kappa", "__class__")}
        self.kappa = kappa
        super().__init__(**arguments)

    def _check_arguments(self) -> None:
        super()._check_arguments()
        check_at_least("kappa", self.kappa, 0, "use 1, or 0 for quantile regression without Huber's smoothing")

    def targets(self, batch: Samples, bootstrap: th.Tensor) -> th.Tensor:
        """Samples of the target distribution (equation 2), shape [B, M]."""
        with self.autocast():
            features = self.q_net_target.encode(batch.next_observations, Noise.SHARED)
            if self.double_q:
                own = self.q_net.encode(batch.next_observations, Noise.SHARED)
                values = self.q_net.sampled_values(own, Noise.SHARED, self.target_risk)
            else:
                values = self.q_net_target.sampled_values(features, Noise.SHARED, self.target_risk)
            taus = th.rand(len(values), self.policy.n_target_quantiles, device=self.device)
            quantiles = self.q_net_target.quantiles(features, taus, Noise.SHARED).float()  # [B, M, A]
        return batch.rewards + bootstrap * gather_actions(quantiles, self.select_actions(values))

    def loss(self, batch: Samples, bootstrap: th.Tensor) -> Loss:
        with th.no_grad():
            targets = self.targets(batch, bootstrap)  # [B, M]; first, so that its memory is free for the pass with gradients
        taus = th.rand(len(targets), self.policy.n_quantiles, device=self.device)
        with self.autocast():
            features = self.q_net.encode(batch.observations, Noise.SHARED)
            quantiles = self.q_net.quantiles(features, taus, Noise.SHARED).float()  # [B, N, A]
        quantiles = gather_actions(quantiles, batch.actions.long().squeeze(1))  # [B, N]
        losses = quantile_huber_loss(quantiles, targets, taus, self.kappa)
        return Loss(losses, losses.detach(), quantiles.detach().mean(dim=1))
