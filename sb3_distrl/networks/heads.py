"""Heads of value networks: plain or dueling."""

import torch as th
from torch import nn

from sb3_distrl.networks.noisy import MLP, LinearFactory, Noise


class Head(nn.Module):
    """
    Outputs for each action, from one stream of layers.

    :param in_features: size of the input
    :param hidden: sizes of the hidden layers
    :param n_actions: A
    :param n_outputs: outputs of each action, Z: atoms or quantiles of a distribution, or 1
    :param activation_fn: activation of the hidden layers
    :param linear: creates the layers
    :param actions_last: whether the last layer's outputs are ordered [Z, A], as in sb3-contrib's QR-DQN, instead of [A, Z]
    """

    def __init__(
        self,
        in_features: int,
        hidden: list[int],
        n_actions: int,
        n_outputs: int,
        activation_fn: type[nn.Module],
        linear: LinearFactory,
        actions_last: bool = False,
    ) -> None:
        super().__init__()
        self.n_actions, self.n_outputs, self.actions_last = n_actions, n_outputs, actions_last
        self.stream = MLP(in_features, hidden, n_actions * n_outputs, activation_fn, linear)

    def forward(self, x: th.Tensor, noise: Noise = Noise.OFF) -> th.Tensor:
        """
        :param x: shape [B, ..., in_features]
        :param noise: see :class:`Noise`
        :return: shape [B, ..., A, Z], in float32 whatever the precision of the layers
        """
        outputs = self.stream(x, noise).float()
        if self.actions_last:
            return outputs.unflatten(-1, (self.n_outputs, self.n_actions)).transpose(-1, -2)
        return outputs.unflatten(-1, (self.n_actions, self.n_outputs))


class DuelingHead(Head):
    """
    Value and advantage streams, V + A - mean_a A (Wang et al. 2016, equation 9), separately for each output.

    For a categorical distribution the outputs are logits: they are aggregated before the softmax (Hessel et al. 2018).
    Arguments as in :class:`Head`; ``hidden`` applies to both streams.
    """

    def __init__(
        self,
        in_features: int,
        hidden: list[int],
        n_actions: int,
        n_outputs: int,
        activation_fn: type[nn.Module],
        linear: LinearFactory,
        actions_last: bool = False,
    ) -> None:
        super().__init__(in_features, hidden, n_actions, n_outputs, activation_fn, linear, actions_last)
        self.value_stream = MLP(in_features, hidden, n_outputs, activation_fn, linear)

    def forward(self, x: th.Tensor, noise: Noise = Noise.OFF) -> th.Tensor:
        advantages = super().forward(x, noise)  # [B, ..., A, Z]
        values = self.value_stream(x, noise).float().unsqueeze(-2)  # [B, ..., 1, Z]
        return values + advantages - advantages.mean(dim=-2, keepdim=True)
