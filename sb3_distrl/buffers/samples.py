"""What the replay buffers return."""

from typing import NamedTuple

import numpy as np
import torch as th
from stable_baselines3.common.type_aliases import TensorDict


class PrioritizedReplayBufferSamples(NamedTuple):
    """
    A batch of n-step transitions; SB3's ``ReplayBufferSamples`` with two more fields.

    ``discounts`` is gamma to the number of rewards that were summed, ``weights`` are the importance-sampling weights,
    both of shape [B, 1]; ``indices``, shape [B], names the transitions to ``update_priorities``.
    """

    observations: th.Tensor | TensorDict
    actions: th.Tensor
    next_observations: th.Tensor | TensorDict
    dones: th.Tensor
    rewards: th.Tensor
    discounts: th.Tensor
    weights: th.Tensor
    indices: np.ndarray


def to_device(array: np.ndarray, device: th.device) -> th.Tensor:
    """
    :param array: that nobody else changes
    :param device: where to
    :return: a tensor of it there; to CUDA it goes from pinned memory, while the CPU goes on
    """
    tensor = th.from_numpy(array)
    return tensor.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else tensor.to(device)
