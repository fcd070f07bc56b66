"""Quantile regression (Dabney et al. 2018a, QR-DQN; Dabney et al. 2018b, IQN)."""

import torch as th
from torch.nn import functional as F


def quantile_midpoints(n: int, device: th.device | str | None = None) -> th.Tensor:
    """
    Midpoints (2i + 1) / 2n of n equal parts of [0, 1] (QR-DQN, Lemma 2).

    :param n: number of fractions, at least 1
    :param device: device of the result
    :return: taus in ascending order, shape [n]
    """
    return (th.arange(n, device=device, dtype=th.float32) + 0.5) / n


def quantile_huber_loss(quantiles: th.Tensor, targets: th.Tensor, taus: th.Tensor, kappa: float = 1.0) -> th.Tensor:
    """
    Quantile Huber loss of each sample, divided by kappa (IQN, equation 3; QR-DQN, equation 10).

    With u_ij = target_j - quantile_i, it is the sum over fractions i of the mean over targets j of
    ``|tau_i - 1{u_ij < 0}| huber_kappa(u_ij) / kappa``. Its limit for ``kappa=0`` is quantile regression with ``|u_ij|``.

    :param quantiles: predicted quantile values, shape [B, N]
    :param targets: samples of the target distribution, without gradient, shape [B, M]
    :param taus: the fractions of ``quantiles``, in (0, 1), shape [B, N] or [N]
    :param kappa: threshold between the quadratic and the linear part of the Huber loss, in units of return
    :return: shape [B]
    """
    assert quantiles.ndim == targets.ndim == 2 and taus.shape in (quantiles.shape, quantiles.shape[1:])
    quantiles, targets, taus = quantiles[:, :, None], targets.detach()[:, None, :], taus[..., None]
    shape = (len(quantiles), quantiles.shape[1], targets.shape[2])  # [B, N, M]
    huber = F.smooth_l1_loss(
        quantiles.expand(shape), targets.expand(shape), reduction="none", beta=kappa
    )  # huber_kappa / kappa
    tilt = th.where(targets < quantiles, 1 - taus, taus)  # [B, N, M]
    return (tilt * huber).mean(dim=2).sum(dim=1)
