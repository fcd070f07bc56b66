"""Rainbow (Hessel et al. 2018)."""

import warnings
from typing import Any, ClassVar

import torch as th
from stable_baselines3.common.buffers import ReplayBuffer
from stable_baselines3.common.policies import BasePolicy
from stable_baselines3.common.type_aliases import GymEnv, Schedule
from torch.nn import functional as F

from sb3_distrl.common.algorithm import ValueAlgorithm
from sb3_distrl.common.loss import Loss, Samples
from sb3_distrl.functional import Distortion, clipped_mass, cross_entropy, entropy, project_categorical
from sb3_distrl.rainbow.policies import NO_DISTRIBUTION, CnnPolicy, MlpPolicy, MultiInputPolicy, RainbowNetwork, RainbowPolicy

VISIBLE_CLIPPED_MASS = 0.05  # share of target mass outside the support that causes a warning
VISIBLE_ATOM_MASS = 0.01  # minimum mass for an atom to count in the warning's range of targets


class Rainbow(ValueAlgorithm):
    """
    Rainbow: Combining Improvements in Deep Reinforcement Learning (Hessel et al. 2018, https://arxiv.org/abs/1710.02298).

    Defaults are the paper's (table 1) for Atari, where a step is four frames. Each of the six components can be switched off:
    ``double_q``, ``prioritized``, ``n_steps=1``, and in ``policy_kwargs`` ``dueling``, ``noisy`` and ``distributional``.
    Without any of them this is SB3's DQN; with ``distributional`` alone it is C51, and so on.

    The priority of a transition is the Kullback-Leibler divergence of target and prediction, as in the paper; without
    ``distributional`` it is the absolute temporal-difference error. The loss is the cross-entropy, which has the same
    gradient. The paper does not say whether gradients were clipped; ``max_grad_norm=10`` is DQN Zoo's.

    Choose ``v_min`` and ``v_max`` to contain the discounted (and, if so, clipped or normalised) returns. The probability mass
    outside is logged as ``train/clipped_mass``, with one warning if it is large, and the range of the targets before clipping
    as ``train/target_min`` and ``train/target_max``.

    :param policy: MlpPolicy, CnnPolicy, MultiInputPolicy, or a class
    :param env: environment, or the name of a registered one
    :param exploration_fraction: fraction of the training over which epsilon falls without noisy layers: 62.5k of 50M steps
    :param exploration_initial_eps: initial epsilon; ``None``: 0 with noisy layers, 1 without
    :param exploration_final_eps: final epsilon; ``None``: 0 with noisy layers, 0.01 without
    :param policy_kwargs: ``dueling=True, noisy=True, noisy_std=0.5, distributional=True, n_atoms=51, v_min=-10.0,
        v_max=10.0``, and those of SB3's DQN
    :raises ValueError: for arguments out of range

    Other arguments are those of :class:`~sb3_distrl.common.algorithm.ValueAlgorithm` and of SB3's DQN.
    """

    policy_aliases: ClassVar[dict[str, type[BasePolicy]]] = {
        "MlpPolicy": MlpPolicy,
        "CnnPolicy": CnnPolicy,
        "MultiInputPolicy": MultiInputPolicy,
    }
    q_net: RainbowNetwork  # type: ignore[assignment]
    q_net_target: RainbowNetwork  # type: ignore[assignment]

    def __init__(
        self,
        policy: str | type[RainbowPolicy],
        env: GymEnv | str | None,
        learning_rate: float | Schedule = 6.25e-5,
        buffer_size: int = 1_000_000,
        learning_starts: int = 20_000,
        batch_size: int = 32,
        tau: float = 1.0,
        gamma: float = 0.99,
        train_freq: int | tuple[int, str] = 4,
        gradient_steps: int = 1,
        replay_buffer_class: type[ReplayBuffer] | None = None,
        replay_buffer_kwargs: dict[str, Any] | None = None,
        optimize_memory_usage: bool | None = None,
        n_steps: int = 3,
        target_update_interval: int = 8_000,
        double_q: bool = True,
        prioritized: bool = True,
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
        exploration_fraction: float = 0.00125,
        exploration_initial_eps: float | None = None,
        exploration_final_eps: float | None = None,
        max_grad_norm: float | None = 10.0,
        stats_window_size: int = 100,
        tensorboard_log: str | None = None,
        policy_kwargs: dict[str, Any] | None = None,
        verbose: int = 0,
        seed: int | None = None,
        device: th.device | str = "auto",
        _init_setup_model: bool = True,
    ) -> None:
        noisy = (policy_kwargs or {}).get("noisy", True)
        if exploration_initial_eps is None:
            exploration_initial_eps = 0.0 if noisy else 1.0
        if exploration_final_eps is None:
            exploration_final_eps = 0.0 if noisy else 0.01
        arguments = {name: value for name, value in locals().items() if name not in ("self", "noisy", "__class__")}
        self._warned_of_clipping = False
        super().__init__(**arguments)

    def _check_arguments(self) -> None:
        super()._check_arguments()
        for name, risk in dict(risk=self.risk, bootstrap_risk=self.target_risk).items():
            if not risk.is_identity and not self.policy_kwargs.get("distributional", True):
                raise ValueError(f"{name}={risk} needs a distribution of the return: {NO_DISTRIBUTION}")

    def targets(self, batch: Samples, bootstrap: th.Tensor) -> tuple[th.Tensor, th.Tensor]:
        next_outputs = self.next_outputs(batch)  # [B, Z]
        if self.q_net.distributional:
            return batch.rewards + bootstrap * self.q_net.support, next_outputs.softmax(dim=1)
        return batch.rewards + bootstrap * next_outputs, th.ones_like(next_outputs)

    def loss(self, batch: Samples, bootstrap: th.Tensor) -> Loss:
        outputs = self.taken_outputs(batch)  # [B, Z]
        with th.no_grad():
            atoms, probs = self.targets(batch, bootstrap)
        loss = self._categorical_loss if self.q_net.distributional else self._scalar_loss
        return loss(outputs, atoms, probs)

    def _scalar_loss(self, values: th.Tensor, targets: th.Tensor, _: th.Tensor) -> Loss:
        """Huber loss of the temporal-difference error (Mnih et al. 2015); all shapes [B, 1]."""
        losses = F.smooth_l1_loss(values, targets, reduction="none").squeeze(1)
        return Loss(losses, (targets - values.detach()).abs().squeeze(1), values.detach().squeeze(1))

    def _categorical_loss(self, logits: th.Tensor, target_atoms: th.Tensor, next_probs: th.Tensor) -> Loss:
        """Cross-entropy with the projected target (C51, Algorithm 1); all shapes [B, Z]."""
        support = self.q_net.support
        target_probs = project_categorical(target_atoms, next_probs, support)  # [B, Z]
        log_probs = logits.log_softmax(dim=1)
        losses = cross_entropy(target_probs, log_probs)
        divergence = (losses.detach() - entropy(target_probs)).clamp(min=0.0)
        visible = next_probs > VISIBLE_ATOM_MASS
        metrics = {
            "clipped_mass": clipped_mass(target_atoms, next_probs, support).mean(),
            "target_min": target_atoms.where(visible, th.inf).min(),
            "target_max": target_atoms.where(visible, -th.inf).max(),
        }
        return Loss(losses, divergence, log_probs.detach().exp() @ support, metrics)

    def _record_metrics(self) -> dict[str, float]:
        metrics = super()._record_metrics()
        if metrics.get("clipped_mass", 0.0) > VISIBLE_CLIPPED_MASS and not self._warned_of_clipping:
            self._warned_of_clipping = True
            support = self.q_net.support
            warnings.warn(
                f"{metrics['clipped_mass']:.0%} of the target distributions' mass lies outside [v_min, v_max] = "
                f"[{support[0]:g}, {support[-1]:g}]; targets from {metrics['target_min']:.3g} to "
                f"{metrics['target_max']:.3g} were seen, and as they bootstrap from clipped ones, returns may go further. Set "
                "policy_kwargs=dict(v_min=..., v_max=...) to the range of the discounted returns, or normalise rewards.",
                UserWarning,
            )
        return metrics
