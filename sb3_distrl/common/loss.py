"""What a loss takes, and what it says."""

from typing import NamedTuple

import torch as th
from stable_baselines3.common.type_aliases import DictReplayBufferSamples, ReplayBufferSamples

from sb3_distrl.buffers import PrioritizedReplayBufferSamples

Samples = PrioritizedReplayBufferSamples | ReplayBufferSamples | DictReplayBufferSamples


class Loss(NamedTuple):
    """What an algorithm's loss says of a batch; ``metrics`` are further scalars to log as ``train/<name>``."""

    losses: th.Tensor  # [B], with gradient
    priorities: th.Tensor  # [B], non-negative
    q_values: th.Tensor  # [B], expected returns of the actions taken
    metrics: dict[str, th.Tensor]
