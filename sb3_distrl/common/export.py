"""A trained model as a torch module to export."""

import copy
from collections.abc import Callable

import torch as th
from stable_baselines3.common.type_aliases import PyTorchObs
from torch import nn

from sb3_distrl.common.policies import ValueNetwork
from sb3_distrl.functional import Distortion


class GreedyPolicy(nn.Module):
    """
    Greedy actions for observations: what ``model.greedy_policy()`` returns, for ``torch.export`` and ``torch.onnx``.

    Trace it with an example of at least two observations: torch would fix the batch size at one otherwise. Keys of Dict
    observations are kept. All risk measures of this library can be exported.

    :param network: value network; it is copied, so that further training does not change the policy
    :param select_actions: of the algorithm, from values of shape [B, A]
    :param risk: risk measure of the return
    """

    def __init__(self, network: ValueNetwork, select_actions: Callable[[th.Tensor], th.Tensor], risk: Distortion) -> None:
        super().__init__()
        self.network = copy.deepcopy(network).requires_grad_(False)
        self.select_actions = select_actions
        self.risk = risk
        self.eval()

    def forward(self, observations: PyTorchObs) -> tuple[th.Tensor, th.Tensor]:
        """
        :param observations: from ``model.observation_space``, not preprocessed: images are bytes, channel-first. Shape [B,
            ...]; a dict of such tensors for a Dict space
        :return: actions, shape [B], and the values that they maximise, as from ``model.q_values``, shape [B, A]
        """
        values = self.network.acting_values(observations, risk=self.risk)
        return self.select_actions(values), values
