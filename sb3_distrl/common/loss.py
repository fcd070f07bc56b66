"""What a loss takes and returns."""

from typing import NamedTuple

import torch as th
from stable_baselines3.common.type_aliases import DictReplayBufferSamples, ReplayBufferSamples

from sb3_distrl.buffers import PrioritizedReplayBufferSamples

Samples = PrioritizedReplayBufferSamples | ReplayBufferSamples | DictReplayBufferSamples


class Loss(NamedTuple):
    """
    An algorithm's loss of a batch.

    :param losses: one for each sample, with gradient, to be multiplied by the importance-sampling weights, shape [B]
    :param priorities: for the replay buffer, non-negative, shape [B]
    :param q_values: expected returns of the actions taken, to log, shape [B]
    :param metrics: further scalars to log as ``train/<name>``, averaged over gradient steps; ``*_min`` and ``*_max`` are the
        extremes instead
    :param extra: further scalar losses, by the names of their optimizers, such as "fraction_optimizer"; see
        :meth:`~sb3_distrl.common.policies.ValuePolicy.further_optimizers`. An optimizer that is not fused makes each step wait
        for a GPU
    """

    losses: th.Tensor
    priorities: th.Tensor
    q_values: th.Tensor
    metrics: dict[str, th.Tensor] = {}  # noqa: RUF012
    extra: dict[str, th.Tensor] = {}  # noqa: RUF012
