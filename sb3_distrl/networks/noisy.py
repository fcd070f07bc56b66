"""Fully connected layers, noisy (Fortunato et al. 2018, Noisy Networks for Exploration) or not."""

import math
from collections.abc import Callable
from enum import Enum

import torch as th
from torch import nn
from torch.nn import functional as F

MANY_ROWS = 64  # building a noisy weight matrix takes about as long as multiplying this many rows by another matrix


class Noise(Enum):
    """Which noise a forward pass uses. It is an argument of the pass, not a mode of the module: SB3 acts in eval mode."""

    OFF = "off"  # only the means
    SHARED = "shared"  # one draw for the whole batch, as in an update
    PER_ROW = "per row"  # one draw for each row, as in acting in several environments at once


def factorised_noise(*shape: int, device: th.device | None = None) -> th.Tensor:
    """``f(x) = sign(x) sqrt(|x|)`` of standard normal draws (Fortunato et al. 2018, section 3)."""
    x = th.randn(*shape, device=device)
    return x.sign() * x.abs().sqrt()


class NoisyLinear(nn.Linear):
    """
    Linear layer with factorised Gaussian noise on its weights and biases (Fortunato et al. 2018, equations 9 to 11).

    The noisy weight is mu_ij + sigma_ij f(e_i) f(e_j), so the noise on x is f(e_out) * (sigma_w (x * f(e_in)) + sigma_b): each
    row of a batch can have its own draw without a noisy weight matrix. If one draw serves many rows, or a compiler fuses it,
    the matrix is built, which is faster than the second product. Every noisy pass draws again, so two passes never share
    noise.

    ``weight`` and ``bias`` are the means, initialised as in ``nn.Linear``, U(-1/sqrt(p), 1/sqrt(p)) with p inputs, which is
    the paper's choice; the sigmas all start at ``noisy_std / sqrt(p)``.

    :param in_features: size of the input
    :param out_features: size of the output
    :param noisy_std: the paper's sigma_0
    """

    def __init__(self, in_features: int, out_features: int, noisy_std: float = 0.5) -> None:
        super().__init__(in_features, out_features)
        sigma = noisy_std / math.sqrt(in_features)
        self.weight_sigma = nn.Parameter(th.full((out_features, in_features), sigma))
        self.bias_sigma = nn.Parameter(th.full((out_features,), sigma))

    def forward(self, x: th.Tensor, noise: Noise = Noise.OFF) -> th.Tensor:
        """
        :param x: shape [B, ..., in_features]; with ``Noise.PER_ROW`` everything of one row b shares a draw
        :param noise: which noise to draw
        :return: shape [B, ..., out_features]
        """
        if noise is Noise.OFF:
            return F.linear(x, self.weight, self.bias)
        shared = noise is Noise.SHARED
        rows = (1 if shared else x.shape[0],) + (1,) * (x.ndim - 2)
        noise_in = factorised_noise(*rows, self.in_features, device=x.device)
        noise_out = factorised_noise(*rows, self.out_features, device=x.device)
        if shared and (th.compiler.is_compiling() or x.shape[:-1].numel() > MANY_ROWS):
            noise_in, noise_out = noise_in.flatten(), noise_out.flatten()
            weight = th.addcmul(self.weight, self.weight_sigma, th.outer(noise_out, noise_in))
            return F.linear(x, weight, th.addcmul(self.bias, self.bias_sigma, noise_out))
        mean = F.linear(x, self.weight, self.bias)
        return mean + noise_out.to(mean.dtype) * F.linear(x * noise_in.to(x.dtype), self.weight_sigma, self.bias_sigma)


LinearFactory = Callable[[int, int], nn.Linear]  # (inputs, outputs) -> layer: nn.Linear, or NoisyLinear with its noisy_std


class MLP(nn.Module):
    """
    Fully connected layers with an activation after each hidden one. Noise is passed on to noisy layers.

    :param in_features: size of the input
    :param hidden: sizes of the hidden layers
    :param out_features: size of the linear output layer; ``None`` ends after the last hidden activation
    :param activation_fn: activation of the hidden layers
    :param linear: creates the layers
    """

    def __init__(
        self,
        in_features: int,
        hidden: list[int],
        out_features: int | None,
        activation_fn: type[nn.Module],
        linear: LinearFactory,
    ) -> None:
        super().__init__()
        self.layers = nn.ModuleList()
        for size in hidden:
            self.layers.extend([linear(in_features, size), activation_fn()])
            in_features = size
        if out_features is not None:
            self.layers.append(linear(in_features, out_features))
            in_features = out_features
        self.out_features = in_features

    def forward(self, x: th.Tensor, noise: Noise = Noise.OFF) -> th.Tensor:
        for layer in self.layers:
            x = layer(x, noise) if isinstance(layer, NoisyLinear) else layer(x)
        return x
