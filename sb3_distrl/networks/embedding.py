"""The embedding of quantile fractions in implicit quantile networks (Dabney et al. 2018b)."""

import math

import torch as th
from torch import nn
from torch.nn import functional as F


class QuantileEmbedding(nn.Module):
    """
    phi_j(tau) = relu(sum_i cos(pi i tau) w_ij + b_j) (IQN, equation 4).

    The cosines run over i = 1..n. The paper prints 0..n-1, whose first cosine is constant; its authors' code (Dopamine,
    implicit_quantile_agent) uses 1..n.

    :param n_cos: number of cosines n
    :param features_dim: size of the features that the embedding multiplies
    """

    frequencies: th.Tensor

    def __init__(self, n_cos: int, features_dim: int) -> None:
        super().__init__()
        self.register_buffer("frequencies", math.pi * th.arange(1, n_cos + 1, dtype=th.float32), persistent=False)
        self.linear = nn.Linear(n_cos, features_dim)

    def forward(self, taus: th.Tensor) -> th.Tensor:
        """
        :param taus: fractions in [0, 1], shape [B, N]
        :return: shape [B, N, features_dim]
        """
        cosines = th.cos(taus[..., None] * self.frequencies)  # [B, N, n_cos]
        return F.relu(self.linear(cosines))
