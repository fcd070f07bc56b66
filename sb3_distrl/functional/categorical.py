"""Categorical distributions on a fixed support (Bellemare, Dabney & Munos 2017, C51)."""

import torch as th


def project_categorical(target_atoms: th.Tensor, probs: th.Tensor, support: th.Tensor) -> th.Tensor:
    """
    Project distributions on target atoms onto the fixed support (C51, equation 7).

    Each target atom, clipped to the support, splits its mass between its two neighbours in proportion to
    1 - distance / spacing. With this triangular kernel, unlike with floor and ceil indices, an atom exactly on an atom of the
    support, or on its ends, keeps all its mass.

    :param target_atoms: e.g. r + gamma^n z, shape [B, Z']
    :param probs: mass of each target atom, non-negative, shape [B, Z']
    :param support: equally spaced atoms in ascending order, shape [Z], at least two
    :return: mass on the support, shape [B, Z]; the sums of rows are those of ``probs``
    """
    assert target_atoms.shape == probs.shape and support.ndim == 1 and len(support) > 1
    spacing = (support[-1] - support[0]) / (len(support) - 1)
    clipped = target_atoms.clamp(support[0], support[-1])  # [B, Z']
    distance = (clipped[:, None, :] - support[None, :, None]).abs() / spacing  # [B, Z, Z']
    share = (1.0 - distance).clamp(min=0.0)
    return th.einsum("bij,bj->bi", share, probs)


def clipped_mass(target_atoms: th.Tensor, probs: th.Tensor, support: th.Tensor) -> th.Tensor:
    """
    Mass of each target distribution outside the support, which the projection moves to its ends.

    :param target_atoms: shape [B, Z']
    :param probs: shape [B, Z']
    :param support: ascending atoms, shape [Z]
    :return: mass in [0, 1], shape [B]
    """
    outside = (target_atoms < support[0]) | (target_atoms > support[-1])
    return (probs * outside).sum(dim=-1)


def cross_entropy(target_probs: th.Tensor, log_probs: th.Tensor) -> th.Tensor:
    """
    Cross-entropy -sum_i m_i log p_i of each row, the loss of C51 (Algorithm 1).

    :param target_probs: m, shape [B, Z]
    :param log_probs: log p, from ``log_softmax``, shape [B, Z]
    :return: nats, shape [B]
    """
    assert target_probs.shape == log_probs.shape
    return -(target_probs * log_probs).sum(dim=-1)


def entropy(probs: th.Tensor) -> th.Tensor:
    """
    Entropy of each row, with 0 log 0 = 0.

    :param probs: shape [B, Z]
    :return: nats, shape [B]
    """
    return -th.xlogy(probs, probs).sum(dim=-1)
