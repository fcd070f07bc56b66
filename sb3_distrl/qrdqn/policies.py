"""Policies of QRDQN."""

from collections import OrderedDict
from collections.abc import Mapping
from typing import Any

import torch as th
from sb3_contrib.qrdqn import policies as sb3_contrib_policies
from stable_baselines3.common.policies import BasePolicy
from stable_baselines3.common.torch_layers import CombinedExtractor, NatureCNN
from stable_baselines3.common.type_aliases import PyTorchObs

from sb3_distrl.common.policies import OutputNetwork, ValuePolicy
from sb3_distrl.functional import MEAN, Distortion
from sb3_distrl.validation import check_at_least, whole_number


class QRDQNNetwork(OutputNetwork):
    """
    Value network of QR-DQN (Dabney et al. 2018a): its outputs are equally likely quantiles of the return.

    :param n_quantiles: N, number of quantiles
    :param kwargs: arguments of :class:`~sb3_distrl.common.policies.ValueNetwork`
    :raises ValueError: for a number below 1
    """

    actions_last = True

    def __init__(self, *args: Any, n_quantiles: int = 200, **kwargs: Any) -> None:
        n_quantiles = whole_number("n_quantiles", n_quantiles, "the paper uses 200")
        check_at_least("n_quantiles", n_quantiles, 1, "the paper uses 200")
        super().__init__(*args, **{**kwargs, "n_outputs": n_quantiles})
        self.n_quantiles = n_quantiles

    def risk_values(self, outputs: th.Tensor, risk: Distortion = MEAN) -> th.Tensor:
        if risk.is_identity:
            return outputs.mean(dim=-1)
        values = outputs.sort(dim=-1).values
        return risk.expectation(values, th.full_like(values[0, 0], 1 / self.n_quantiles))

    def distribution(self, obs: PyTorchObs) -> tuple[th.Tensor, th.Tensor]:
        quantiles = self.outputs(self.preprocess(obs))
        return quantiles, th.full_like(quantiles, 1 / self.n_quantiles)

    def forward(self, obs: PyTorchObs) -> th.Tensor:
        """Quantiles without noise, shape [B, N, A], like sb3-contrib's ``QuantileNetwork``. Must not be overridden either."""
        return self.outputs(self.preprocess(obs)).transpose(-1, -2)

    def _get_constructor_parameters(self) -> dict[str, Any]:
        return {**super()._get_constructor_parameters(), "n_quantiles": self.n_quantiles}


class QRDQNPolicy(ValuePolicy):
    """
    Policy of QRDQN; arguments as in sb3-contrib's, and those of the network: ``n_quantiles=200``, ``dueling=False``,
    ``noisy=False``, ``noisy_std=0.5``. It loads policies saved by sb3-contrib.

    ``net_arch=None`` is sb3-contrib's: none after SB3's ``NatureCNN``, and [64, 64] otherwise. Adam's eps is 0.01 / 32 (Dabney
    et al. 2018a); the algorithm sets it to 0.01 / batch_size, like sb3-contrib's.
    """

    network_class = QRDQNNetwork
    default_net_arch = {NatureCNN: []}  # noqa: RUF012
    adam_eps = 0.01 / 32
    q_net: QRDQNNetwork  # type: ignore[assignment]
    q_net_target: QRDQNNetwork  # type: ignore[assignment]

    @property
    def quantile_net(self) -> QRDQNNetwork:
        """The online network, by sb3-contrib's name."""
        return self.q_net

    @property
    def quantile_net_target(self) -> QRDQNNetwork:
        """The target network, by sb3-contrib's name."""
        return self.q_net_target

    @property
    def n_quantiles(self) -> int:
        """Number of quantiles."""
        return self.q_net.n_quantiles

    def load_state_dict(self, state_dict: Mapping[str, Any], *args: Any, **kwargs: Any) -> Any:
        """Load parameters as in torch, also those of sb3-contrib's policy, which have other names."""
        return super().load_state_dict(OrderedDict(self._renamed(state_dict)), *args, **kwargs)

    def _renamed(self, state_dict: Mapping[str, Any]) -> Any:
        """
        sb3-contrib's ``<network>.quantile_net.<i>.<weight or bias>`` are the layers of the trunk, followed by those of the
        head; an activation follows each hidden layer in both.
        """
        in_trunk = len(self.q_net.trunk.layers)
        for name, value in state_dict.items():
            network, _, rest = name.partition(".")
            if network in ("quantile_net", "quantile_net_target"):
                network = network.replace("quantile_net", "q_net")
                if rest.startswith("quantile_net."):
                    _, index, kind = rest.split(".")
                    trunk = int(index) < in_trunk
                    where, i = ("trunk", int(index)) if trunk else ("head.stream", int(index) - in_trunk)
                    rest = f"{where}.layers.{i}.{kind}"
                name = f"{network}.{rest}"
            yield name, value


MlpPolicy = QRDQNPolicy


class CnnPolicy(QRDQNPolicy):
    """Policy of QRDQN for images."""

    default_features_extractor = NatureCNN


class MultiInputPolicy(QRDQNPolicy):
    """Policy of QRDQN for Dict observations."""

    default_features_extractor = CombinedExtractor


SB3_CONTRIB: dict[type[BasePolicy], type[QRDQNPolicy]] = {
    sb3_contrib_policies.QRDQNPolicy: MlpPolicy,
    sb3_contrib_policies.CnnPolicy: CnnPolicy,
    sb3_contrib_policies.MultiInputPolicy: MultiInputPolicy,
}


def own_policy(policy_class: type[BasePolicy]) -> type[BasePolicy]:
    """
    :return: this library's policy for one of sb3-contrib's, and any other unchanged
    :raises ValueError: for a subclass of sb3-contrib's, whose network would not be used
    """
    if policy_class in SB3_CONTRIB:
        return SB3_CONTRIB[policy_class]
    for theirs, ours in reversed(SB3_CONTRIB.items()):  # MlpPolicy is the base of the others
        if issubclass(policy_class, theirs):
            raise ValueError(
                f"policy={policy_class.__name__} is a subclass of sb3-contrib's {theirs.__name__}, whose network is not used "
                f"here: derive it from sb3_distrl.qrdqn.policies.{ours.__name__}, and set its network_class to a subclass of "
                "QRDQNNetwork there."
            )
    return policy_class
