"""What a loss takes, and what it returns."""

from typing import NamedTuple

import torch as th
from stable_baselines3.common.type_aliases import DictReplayBufferSamples, ReplayBufferSamples

from sb3_distrl.buffers import PrioritizedReplayBufferSamples

Samples = PrioritizedReplayBufferSamples | ReplayBufferSamples | DictReplayBufferSamples


class Loss(NamedTuple):
    """
    What an algorithm's loss says of a batch.

    :param losses: one for each sample, which the importance-sampling weights multiply, with gradient, shape [B]
    :param priorities: for the replay buffer, non-negative, shape [B]
    :param q_values: expected returns of the actions taken, to log, shape [B]
    :param metrics: further scalars to log as ``train/<name>``; of what is named ``*_min`` or ``*_max`` the extreme is logged,
        of all others the mean
    :param extra: further scalar losses, each with an optimizer of its own: by the name that the policy has it under, such as
        "fraction_optimizer"
    """

    losses: th.Tensor
    priorities: th.Tensor
    q_values: th.Tensor
    metrics: dict[str, th.Tensor] = {}  # noqa: RUF012
    extra: dict[str, th.Tensor] = {}  # noqa: RUF012
