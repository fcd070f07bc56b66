"""Policies of Rainbow."""

import math
from typing import Any

import torch as th
from gymnasium import spaces
from stable_baselines3.common.torch_layers import CombinedExtractor
from stable_baselines3.common.type_aliases import PyTorchObs

from sb3_distrl.common.policies import OutputNetwork, ValuePolicy
from sb3_distrl.functional import MEAN, Distortion
from sb3_distrl.networks import NatureConv
from sb3_distrl.validation import number, whole_number

NO_DISTRIBUTION = (
    "policy_kwargs has distributional=False, so there are values but no distributions: use distributional=True, or "
    "risk='mean'."
)
RETURNS = "set v_min and v_max to the range of your returns"
EVEN = 0.1  # tolerated float32 error of atoms, as a share of their spacing; a projection may lose as much of its mass


def make_support(v_min: float, v_max: float, n_atoms: int) -> th.Tensor:
    """
    :return: equally spaced atoms, shape [Z]
    :raises ValueError: if they are not distinct finite numbers in float32
    """
    if not v_min < v_max:
        raise ValueError(f"v_min={v_min} must be less than v_max={v_max}: set both to the range of your returns.")
    for name, value in dict(v_min=v_min, v_max=v_max).items():
        if math.isinf(value):
            raise ValueError(f"{name}={value} must be finite: {RETURNS}.")
    if max(abs(v_min), abs(v_max), v_max - v_min) > th.finfo(th.float32).max:
        raise ValueError(f"v_min={v_min} and v_max={v_max} are too large for float32: {RETURNS}, or scale the rewards.")
    support = th.linspace(v_min, v_max, n_atoms)
    spacing = (v_max - v_min) / (n_atoms - 1)
    if (support.double().diff() / spacing - 1).abs().max() > EVEN:
        raise ValueError(
            f"v_min={v_min} and v_max={v_max} are too close for n_atoms={n_atoms} different atoms in float32: {RETURNS}, or "
            "shift the rewards."
        )
    return support


class RainbowNetwork(OutputNetwork):
    """
    Value network of Rainbow (Hessel et al. 2018): its outputs are the logits of a categorical distribution, or plain values.

    :param distributional: categorical distributions (Bellemare et al. 2017); otherwise one value for each action
    :param n_atoms: number of atoms Z
    :param v_min: lowest atom, in units of discounted (and, if so, clipped or normalised) return
    :param v_max: highest atom, in the same units
    :param kwargs: arguments of :class:`~sb3_distrl.common.policies.ValueNetwork`
    :raises ValueError: for an invalid support
    """

    support: th.Tensor

    def __init__(
        self,
        observation_space: spaces.Space,
        action_space: spaces.Discrete,
        *,
        distributional: bool = True,
        n_atoms: int = 51,
        v_min: float = -10.0,
        v_max: float = 10.0,
        dueling: bool = True,
        noisy: bool = True,
        **kwargs: Any,
    ) -> None:
        n_atoms = whole_number("n_atoms", n_atoms, "the paper uses 51")
        if n_atoms < 2:
            raise ValueError(f"n_atoms={n_atoms} is not enough for a distribution: use at least 2, the paper uses 51.")
        support = make_support(number("v_min", v_min, RETURNS), number("v_max", v_max, RETURNS), n_atoms)
        n_outputs = n_atoms if distributional else 1
        super().__init__(observation_space, action_space, dueling=dueling, noisy=noisy, n_outputs=n_outputs, **kwargs)
        self.distributional, self.n_atoms, self.v_min, self.v_max = distributional, n_atoms, v_min, v_max
        self.register_buffer("support", support, persistent=False)

    def check_distributional(self) -> None:
        """:raises ValueError: if there are no distributions"""
        if not self.distributional:
            raise ValueError(NO_DISTRIBUTION)

    def risk_values(self, outputs: th.Tensor, risk: Distortion = MEAN) -> th.Tensor:
        if risk.is_identity:
            return outputs.softmax(dim=-1) @ self.support if self.distributional else outputs.squeeze(-1)
        self.check_distributional()
        return risk.expectation(self.support, outputs.softmax(dim=-1))

    def distribution(self, obs: PyTorchObs) -> tuple[th.Tensor, th.Tensor]:
        self.check_distributional()
        probs = self.outputs(self.preprocess(obs)).softmax(dim=-1)  # [B, A, Z]
        return self.support.expand_as(probs), probs

    def _get_constructor_parameters(self) -> dict[str, Any]:
        names = ("distributional", "n_atoms", "v_min", "v_max")
        return {**super()._get_constructor_parameters(), **{name: getattr(self, name) for name in names}}


class RainbowPolicy(ValuePolicy):
    """
    Policy of Rainbow; arguments as in :class:`~sb3_distrl.common.policies.ValuePolicy`, and for :class:`RainbowNetwork`
    ``dueling=True``, ``noisy=True``, ``noisy_std=0.5``, ``distributional=True``, ``n_atoms=51``, ``v_min=-10.0``,
    ``v_max=10.0``. Adam's eps is 1.5e-4 (Hessel et al. 2018, table 1).
    """

    network_class = RainbowNetwork
    adam_eps = 1.5e-4


MlpPolicy = RainbowPolicy


class CnnPolicy(RainbowPolicy):
    """Policy of Rainbow for images."""

    default_features_extractor = NatureConv


class MultiInputPolicy(RainbowPolicy):
    """Policy of Rainbow for Dict observations."""

    default_features_extractor = CombinedExtractor
