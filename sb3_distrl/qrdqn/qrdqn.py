"""QR-DQN (Dabney et al. 2018a)."""

from typing import Any, ClassVar

import torch as th
from sb3_contrib.qrdqn.policies import CnnPolicy, MlpPolicy, MultiInputPolicy, QRDQNPolicy, QuantileNetwork
from stable_baselines3.common.buffers import ReplayBuffer
from stable_baselines3.common.policies import BasePolicy
from stable_baselines3.common.preprocessing import preprocess_obs
from stable_baselines3.common.type_aliases import GymEnv, PyTorchObs, Schedule
from torch import nn

from sb3_distrl.common.acceleration import autocast, fastest_layout
from sb3_distrl.common.algorithm import ValueAlgorithm
from sb3_distrl.common.loss import Loss, Samples
from sb3_distrl.common.policies import adam_arguments
from sb3_distrl.functional import Distortion, gather_actions, quantile_huber_loss, quantile_midpoints
from sb3_distrl.validation import check_at_least, whole_number

OVERRIDDEN = ("forward", "extract_features")  # what a network may do in another way than sb3-contrib's


def measure(quantiles: th.Tensor, risk: Distortion) -> th.Tensor:
    """
    :param quantiles: equally likely values, shape [B, N, A]
    :param risk: measure of the return
    :return: shape [B, A]
    """
    if risk.is_identity:
        return quantiles.mean(dim=1)
    values = quantiles.transpose(1, 2).sort(dim=-1).values  # [B, A, N]; torch does not export .mT to ONNX
    return risk.expectation(values, th.full_like(values[0, 0], 1 / values.shape[-1]))


class QRDQN(ValueAlgorithm):
    """
    Distributional Reinforcement Learning with Quantile Regression (Dabney et al. 2018a,
    https://arxiv.org/abs/1710.10044): sb3-contrib's QRDQN, its policies and its defaults, with ``double_q`` and
    ``prioritized`` on top. It loads what sb3-contrib's QRDQN saved.

    The priority of a transition is its quantile Huber loss, which is what the algorithm minimises.

    :param policy: MlpPolicy, CnnPolicy, MultiInputPolicy, or a class
    :param env: environment, or the name of a registered one
    :param policy_kwargs: ``n_quantiles=200``, and what SB3's DQN takes; Adam's eps is 0.01 / batch_size unless given

    ``optimize_memory_usage``, ``n_steps``, ``double_q``, ``prioritized``, ``alpha``, ``beta_initial``, ``beta_final``,
    ``beta_fraction``, ``replay_ratio``, ``overlap``, ``precision``, ``compile``, ``risk`` and
    ``bootstrap_risk`` are described in :class:`~sb3_distrl.common.algorithm.ValueAlgorithm`, all others in sb3-contrib's
    QRDQN.

    :raises ValueError: for arguments out of range
    """

    policy_aliases: ClassVar[dict[str, type[BasePolicy]]] = {
        "MlpPolicy": MlpPolicy,
        "CnnPolicy": CnnPolicy,
        "MultiInputPolicy": MultiInputPolicy,
    }
    policy: QRDQNPolicy  # type: ignore[assignment]
    q_net: QuantileNetwork  # type: ignore[assignment]
    q_net_target: QuantileNetwork  # type: ignore[assignment]

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

    def _check_arguments(self) -> None:
        super()._check_arguments()
        check_at_least("n_quantiles", self.policy_kwargs.get("n_quantiles", 1), 1, "the paper uses 200")

    def _policy_arguments(self) -> dict[str, Any]:
        arguments = super()._policy_arguments()
        if "n_quantiles" in arguments:
            arguments["n_quantiles"] = whole_number("n_quantiles", arguments["n_quantiles"], "the paper uses 200")
        optimizer_class, given = arguments.get("optimizer_class", th.optim.Adam), arguments.get("optimizer_kwargs")
        arguments["optimizer_kwargs"] = adam_arguments(optimizer_class, given, eps=0.01 / self.batch_size)
        return arguments

    def _create_aliases(self) -> None:
        self.q_net = self.quantile_net = self.policy.quantile_net
        self.q_net_target = self.quantile_net_target = self.policy.quantile_net_target
        self.n_quantiles = self.policy.n_quantiles

    def _distribution(self, obs: PyTorchObs) -> tuple[th.Tensor, th.Tensor]:
        quantiles = self.q_net(obs).mT  # [B, A, N]
        return quantiles, th.full_like(quantiles, 1 / self.n_quantiles)

    @staticmethod
    def _acting_values(network: nn.Module, obs: PyTorchObs, deterministic: bool, risk: Distortion) -> th.Tensor:
        return measure(network(obs), risk)

    @property
    def _own_forward(self) -> bool:
        """Whether somebody's network does something else than sb3-contrib's with an observation."""
        return any(getattr(type(self.q_net), name) is not getattr(QuantileNetwork, name) for name in OVERRIDDEN)

    def _inputs(self, obs: PyTorchObs) -> PyTorchObs:
        if self._own_forward:
            return obs
        return preprocess_obs(
            fastest_layout(obs, self.q_net), self.observation_space, normalize_images=self.policy.normalize_images
        )

    def _pass(self, network: QuantileNetwork, inputs: PyTorchObs) -> th.Tensor:
        """
        :param network: whose ``forward`` takes observations before they are preprocessed
        :param inputs: shape [B, ...]
        :return: quantiles in float32, shape [B, N, A]
        """
        if self._own_forward:
            return network(inputs).float()
        return network.quantile_net(network.features_extractor(inputs)).unflatten(1, (network.n_quantiles, -1)).float()

    def _quantiles(self, batch: Samples) -> tuple[th.Tensor, th.Tensor]:
        """
        :param batch: n-step transitions
        :return: the online network's quantiles of the actions taken, and the target network's, without gradient, of the
            greedy actions in the next state; both of shape [B, N]
        """
        with autocast(self.precision, self.device):
            quantiles = self._pass(self.q_net, batch.observations)  # [B, N, A]
            with th.no_grad():
                next_quantiles = self._pass(self.q_net_target, batch.next_observations)
                selecting = self._pass(self.q_net, batch.next_observations) if self.double_q else next_quantiles
        next_actions = measure(selecting, self._bootstrap_risk).argmax(dim=1)
        return gather_actions(quantiles, batch.actions.long().squeeze(1)), gather_actions(next_quantiles, next_actions)

    def _loss(self, batch: Samples, bootstrap: th.Tensor) -> Loss:
        quantiles, next_quantiles = self._quantiles(batch)
        targets = batch.rewards + bootstrap * next_quantiles  # [B, N]
        losses = quantile_huber_loss(quantiles, targets, quantile_midpoints(self.n_quantiles, self.device))
        return Loss(losses, losses.detach(), quantiles.detach().mean(dim=1), {})

    def _excluded_save_params(self) -> list[str]:
        return [*super()._excluded_save_params(), "quantile_net", "quantile_net_target"]
