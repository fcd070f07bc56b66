"""A batch made by hand, and networks that disagree, for the losses."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch as th

from sb3_distrl.buffers import PrioritizedReplayBufferSamples
from tests.common.settings import logged

B, A = 5, 3  # transitions of the batch, actions of the environment


def hand_made_batch(**changes: th.Tensor) -> PrioritizedReplayBufferSamples:
    """
    :param changes: fields that are to be different
    :return: five transitions; the second and the fourth are terminal
    """
    generator = th.Generator().manual_seed(5)
    batch = PrioritizedReplayBufferSamples(
        observations=th.randn(B, 3, generator=generator),
        actions=th.tensor([[0], [2], [1], [1], [2]]),
        next_observations=th.randn(B, 3, generator=generator),
        dones=th.tensor([[0.0], [1.0], [0.0], [1.0], [0.0]]),
        rewards=th.tensor([[0.3], [0.7], [4.0], [-0.5], [-0.4]]),
        discounts=th.tensor([[0.9], [0.81], [0.9], [0.729], [0.729]]),
        weights=th.tensor([[1.0], [0.5], [0.25], [0.8], [0.1]]),
        indices=np.array([3, 0, 4, 1, 7]),
    )
    return batch._replace(**changes)


def loss_of(model: Any, batch: PrioritizedReplayBufferSamples) -> Any:
    """
    :param model: of this library
    :param batch: of B transitions
    :return: what the model's loss says, after a look at its shapes
    """
    loss = model.loss(batch, (1 - batch.dones) * batch.discounts)
    assert loss.losses.shape == loss.priorities.shape == loss.q_values.shape == (B,)
    assert loss.losses.requires_grad and not loss.priorities.requires_grad and not loss.q_values.requires_grad
    return loss


def check_weighted_step(model: Any) -> None:
    """
    See that a gradient step weighs the loss of each sample, and hands the priorities on.

    :param model: prioritized, and not learning before step 100
    """
    model.learn(20)  # so that the buffer holds the indices of the batch
    batch = hand_made_batch()
    th.manual_seed(11)
    loss = loss_of(model, batch)
    losses = loss.losses.tolist()
    th.manual_seed(11)
    model.gradient_step(batch)
    expected = sum(float(batch.weights[b]) * losses[b] for b in range(B)) / B
    assert logged(model)["train/loss"] == pytest.approx(expected, rel=1e-5)
    masses = (loss.priorities.double().numpy() + 1e-6) ** 0.5
    assert model.replay_buffer.tree[batch.indices] == pytest.approx(masses, rel=1e-6)


def scramble(model: Any, seed: int, scale: float) -> Any:
    """
    :param model: its parameters are overwritten, so that online and target network differ
    :param seed: of the new ones
    :param scale: their standard deviation
    :return: the model
    """
    generator = th.Generator().manual_seed(seed)
    with th.no_grad():
        for parameter in model.policy.parameters():
            parameter.copy_(scale * th.randn(parameter.shape, generator=generator))
    return model


def argmax(values: Sequence[float]) -> int:
    return max(range(len(values)), key=values.__getitem__)


def mean_choice(values: Sequence[Sequence[float]]) -> int:
    """
    :param values: of each fraction and action, [N][A]
    :return: the action with the best mean over the fractions
    """
    return argmax([sum(row[a] for row in values) / len(values) for a in range(A)])
