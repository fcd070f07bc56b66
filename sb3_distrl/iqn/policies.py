"""Policies of IQN."""

from typing import Any

import torch as th
from stable_baselines3.common.torch_layers import CombinedExtractor
from stable_baselines3.common.type_aliases import PyTorchObs

from sb3_distrl.common.policies import ValueNetwork, ValuePolicy
from sb3_distrl.functional import MEAN, Distortion, quantile_midpoints
from sb3_distrl.networks import NatureConv, Noise, QuantileEmbedding
from sb3_distrl.validation import check_at_least, whole_number


class IQNNetwork(ValueNetwork):
    """
    Implicit quantile network (Dabney et al. 2018b): Z_tau(x, a) = f(psi(x) * phi(tau))_a (equation 4 and text), with psi the
    features and all but the last hidden layer, phi the embedding of the fraction, and f the head.

    :param n_eval_quantiles: K, fractions over which values are averaged to choose actions
    :param n_cos: number of cosines of the embedding
    :param kwargs: arguments of :class:`~sb3_distrl.common.policies.ValueNetwork`
    :raises ValueError: for numbers below 1
    """

    def __init__(self, *args: Any, n_eval_quantiles: int = 32, n_cos: int = 64, **kwargs: Any) -> None:
        for name, value in dict(n_eval_quantiles=n_eval_quantiles, n_cos=n_cos).items():
            check_at_least(name, value, 1, "use e.g. 32")
        super().__init__(*args, **kwargs)
        self.n_eval_quantiles = whole_number("n_eval_quantiles", n_eval_quantiles, "use e.g. 32")
        self.n_cos = whole_number("n_cos", n_cos, "use e.g. 64")
        self.embedding = QuantileEmbedding(self.n_cos, self.trunk.out_features)

    def quantiles(self, features: th.Tensor, taus: th.Tensor, noise: Noise = Noise.OFF) -> th.Tensor:
        """
        :param features: of ``encode``, shape [B, features]
        :param taus: fractions, shape [B, N]
        :param noise: see :class:`~sb3_distrl.networks.Noise`
        :return: quantile values, shape [B, N, A]
        """
        return self.head(features[:, None] * self.embedding(taus), noise).squeeze(-1)

    def eval_quantiles(self, obs: PyTorchObs, risk: Distortion = MEAN) -> th.Tensor:
        """
        Quantiles at the K midpoints of [0, 1], distorted by ``risk``; without noise, so equal observations have equal
        quantiles.

        :param obs: observations, shape [B, ...]
        :param risk: the distortion
        :return: shape [B, K, A]
        """
        features = self.encode(self.preprocess(obs))
        taus = risk(quantile_midpoints(self.n_eval_quantiles, features.device))
        return self.quantiles(features, taus.expand(features.shape[0], -1))  # len() would be a constant in exports

    def distribution(self, obs: PyTorchObs) -> tuple[th.Tensor, th.Tensor]:
        quantiles = self.eval_quantiles(obs).mT  # [B, A, K]
        return quantiles, th.full_like(quantiles, 1 / self.n_eval_quantiles)

    def sampled_values(self, features: th.Tensor, noise: Noise = Noise.OFF, risk: Distortion = MEAN) -> th.Tensor:
        """
        Means over K distorted fractions of U(0, 1), drawn as in training (section 3.1).

        :param features: of ``encode``, shape [B, features]
        :param noise: see :class:`~sb3_distrl.networks.Noise`
        :param risk: the distortion
        :return: shape [B, A]
        """
        taus = risk.sample(len(features), self.n_eval_quantiles, device=features.device)
        return self.quantiles(features, taus, noise).mean(dim=1)

    def acting_values(self, obs: PyTorchObs, deterministic: bool = True, risk: Distortion = MEAN) -> th.Tensor:
        if deterministic:
            return self.eval_quantiles(obs, risk).mean(dim=1)
        return self.sampled_values(self.encode(self.preprocess(obs), Noise.PER_ROW), Noise.PER_ROW, risk)

    def _get_constructor_parameters(self) -> dict[str, Any]:
        return {**super()._get_constructor_parameters(), "n_eval_quantiles": self.n_eval_quantiles, "n_cos": self.n_cos}


class IQNPolicy(ValuePolicy):
    """
    Policy of IQN; arguments as in :class:`~sb3_distrl.common.policies.ValuePolicy`, and those of the network:

    :param n_quantiles: N, fractions at which the loss evaluates the online network
    :param n_target_quantiles: N', fractions at which it evaluates the target network
    :param n_eval_quantiles: K, fractions over which values are averaged to choose actions: drawn in training and in
        ``predict``, the midpoints of [0, 1] if ``deterministic``
    :param n_cos: cosines of the embedding
    :param net_kwargs: ``dueling=False``, ``noisy=False``, ``noisy_std=0.5``

    Adam's eps is 0.01 / 32 (as in QR-DQN, whose settings the paper keeps).
    """

    network_class = IQNNetwork
    adam_eps = 0.01 / 32

    def __init__(self, *args: Any, n_quantiles: int = 64, n_target_quantiles: int = 64, **kwargs: Any) -> None:
        for name, value in dict(n_quantiles=n_quantiles, n_target_quantiles=n_target_quantiles).items():
            check_at_least(name, value, 1, "the paper uses 64")
        super().__init__(*args, **kwargs)
        self.n_quantiles = whole_number("n_quantiles", n_quantiles, "the paper uses 64")
        self.n_target_quantiles = whole_number("n_target_quantiles", n_target_quantiles, "the paper uses 64")

    def _get_constructor_parameters(self) -> dict[str, Any]:
        numbers = dict(n_quantiles=self.n_quantiles, n_target_quantiles=self.n_target_quantiles)
        return {**super()._get_constructor_parameters(), **numbers}


MlpPolicy = IQNPolicy


class CnnPolicy(IQNPolicy):
    """Policy of IQN for images."""

    default_features_extractor = NatureConv


class MultiInputPolicy(IQNPolicy):
    """Policy of IQN for Dict observations."""

    default_features_extractor = CombinedExtractor
