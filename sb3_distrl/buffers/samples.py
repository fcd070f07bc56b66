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
