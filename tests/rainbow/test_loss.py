"""Rainbow's losses and priorities against loops over samples, actions and atoms."""

import math
from typing import Any

import numpy as np
import pytest
import torch as th

from sb3_distrl import Rainbow
from tests.common.batches import B, argmax, hand_made_batch, loss_of, scramble
from tests.common.settings import logged, make

Z = 7
SUPPORT = [-2.0 + 5.0 * i / (Z - 1) for i in range(Z)]  # -2 to 3


INSIDE = th.tensor([[0.2], [0.7], [0.1], [-0.5], [-0.4]])  # rewards with which no target leaves the support


def model_with(distributional: bool, double_q: bool, **kwargs: Any) -> Any:
    policy_kwargs = dict(distributional=distributional, noisy=False, n_atoms=Z, v_min=-2.0, v_max=3.0)
    return scramble(
        make(Rainbow, double_q=double_q, policy_kwargs=policy_kwargs, **kwargs), seed=21, scale=0.6 if distributional else 0.4
    )


def softmax(logits: list[float]) -> list[float]:
    exponentials = [math.exp(logit - max(logits)) for logit in logits]
    return [each / sum(exponentials) for each in exponentials]


def mean(logits: list[float]) -> float:
    return sum(prob * atom for prob, atom in zip(softmax(logits), SUPPORT, strict=True))


def project(probs: list[float], reward: float, discount: float) -> tuple[list[float], float]:
    """C51, Algorithm 1, and what lies outside the support."""
    projected, outside = [0.0] * Z, 0.0
    for prob, atom in zip(probs, SUPPORT, strict=True):
        target = reward + discount * atom
        outside += prob * (target < SUPPORT[0] or target > SUPPORT[-1])
        place = (min(max(target, SUPPORT[0]), SUPPORT[-1]) - SUPPORT[0]) / (SUPPORT[1] - SUPPORT[0])
        lower = min(int(place + 1e-6), Z - 2)
        projected[lower] += prob * (lower + 1 - place)
        projected[lower + 1] += prob * (place - lower)
    return projected, outside


def outputs_of(network: Any, obs: th.Tensor) -> list[list[list[float]]]:
    with th.no_grad():
        return network.outputs(obs).tolist()  # [B][A][Z]


@pytest.mark.parametrize("double_q", [False, True])
def test_categorical_loss(double_q: bool) -> None:
    # Of the terminal rewards one falls between atoms and one on an atom; the third reward leads out of the support
    model, batch = model_with(True, double_q), hand_made_batch()
    batch.rewards[3] = SUPPORT[2]
    logits = outputs_of(model.q_net, batch.observations)
    next_online = outputs_of(model.q_net, batch.next_observations)
    next_target = outputs_of(model.q_net_target, batch.next_observations)
    loss = loss_of(model, batch)
    losses = loss.losses.tolist()

    disagreements, all_outside = 0, 0.0
    for b in range(B):
        online_choice, target_choice = (argmax([mean(z) for z in each[b]]) for each in (next_online, next_target))
        disagreements += online_choice != target_choice and float(batch.dones[b]) == 0
        next_probs = softmax(next_target[b][online_choice if double_q else target_choice])
        discount = float(batch.discounts[b]) if batch.dones[b] == 0 else 0.0
        target, outside = project(next_probs, float(batch.rewards[b]), discount)
        assert sum(target) == pytest.approx(1.0)
        predicted = logits[b][int(batch.actions[b])]
        probs = softmax(predicted)
        cross_entropy = -sum(m * math.log(p) for m, p in zip(target, probs, strict=True))
        divergence = sum(m * math.log(m / p) for m, p in zip(target, probs, strict=True) if m > 1e-12)
        assert losses[b] == pytest.approx(cross_entropy, rel=1e-4, abs=1e-6)
        assert float(loss.priorities[b]) == pytest.approx(divergence, rel=1e-3, abs=1e-5)
        assert float(loss.q_values[b]) == pytest.approx(mean(predicted), rel=1e-4, abs=1e-5)
        all_outside += outside
    assert disagreements >= 2, "else this test cannot tell double_q from its absence"
    assert float(loss.metrics["clipped_mass"]) == pytest.approx(all_outside / B, rel=1e-4)
    assert all_outside > 0.2
    assert (loss.priorities >= 0).all() and (loss.priorities < loss.losses).any()


@pytest.mark.parametrize("double_q", [False, True])
def test_scalar_loss(double_q: bool) -> None:
    model, batch = model_with(False, double_q), hand_made_batch()
    values = outputs_of(model.q_net, batch.observations)
    next_online = outputs_of(model.q_net, batch.next_observations)
    next_target = outputs_of(model.q_net_target, batch.next_observations)
    loss = loss_of(model, batch)
    losses = loss.losses.tolist()
    disagreements, sizes = 0, []
    for b in range(B):
        online_choice, target_choice = (argmax([value for (value,) in each[b]]) for each in (next_online, next_target))
        disagreements += online_choice != target_choice and float(batch.dones[b]) == 0
        next_value = next_target[b][online_choice if double_q else target_choice][0]
        target = float(batch.rewards[b]) + float((1 - batch.dones[b]) * batch.discounts[b]) * next_value
        value = values[b][int(batch.actions[b])][0]
        error = abs(target - value)
        sizes.append(error)
        assert losses[b] == pytest.approx(0.5 * error**2 if error < 1 else error - 0.5, rel=1e-4)
        assert float(loss.priorities[b]) == pytest.approx(error, rel=1e-4)
        assert float(loss.q_values[b]) == pytest.approx(value, rel=1e-4)
    assert disagreements >= 2 and min(sizes) < 1 < max(sizes)


def test_priority_is_zero_where_the_prediction_is_the_target() -> None:
    """The cross-entropy is not: it is then the entropy of the target."""
    model = model_with(True, double_q=False)
    model.q_net_target.load_state_dict(model.q_net.state_dict())
    observations = hand_made_batch().observations
    greedy = model.q_net(observations).argmax(dim=1, keepdim=True)
    batch = hand_made_batch(
        actions=greedy,
        next_observations=observations,
        rewards=th.zeros(B, 1),
        dones=th.zeros(B, 1),
        discounts=th.ones(B, 1),
    )
    loss = loss_of(model, batch)
    assert loss.priorities.tolist() == pytest.approx([0.0] * B, abs=1e-5)
    assert (loss.priorities >= 0).all()
    probs = model.q_net.outputs(observations).softmax(dim=2)[th.arange(B), greedy.squeeze(1)]
    assert loss.losses.tolist() == pytest.approx((-probs * probs.log()).sum(dim=1).tolist(), rel=1e-4, abs=1e-4)
    assert loss.losses.max() > 0.01


@pytest.mark.parametrize("prioritized", [False, True])
@pytest.mark.parametrize("distributional", [False, True])
def test_weights_multiply_the_loss_of_each_sample(distributional: bool, prioritized: bool) -> None:
    """A step of plain gradient descent with rate 1 moves the parameters by the gradient."""
    model = model_with(distributional, True, prioritized=prioritized, learning_starts=100, max_grad_norm=None)
    model.learn(20)  # so that the buffer holds the indices of the batch
    batch = hand_made_batch(rewards=INSIDE)
    model.policy.optimizer = th.optim.SGD(model.q_net.parameters(), lr=1.0)
    weights = batch.weights.squeeze(1) if prioritized else th.ones(B)
    loss = loss_of(model, batch)
    mean_loss = sum(weights[b] * loss.losses[b] for b in range(B)) / B
    model.q_net.zero_grad()
    mean_loss.backward()
    before = [parameter.detach().clone() for parameter in model.q_net.parameters()]
    gradients = [parameter.grad.clone() for parameter in model.q_net.parameters()]
    masses = model.replay_buffer.tree[batch.indices].copy()

    model.gradient_step(batch)

    assert any(gradient.abs().max() > 0.01 for gradient in gradients)
    for parameter, old, gradient in zip(model.q_net.parameters(), before, gradients, strict=True):
        assert th.allclose(old - parameter, gradient, rtol=1e-4, atol=1e-5)
    metrics = logged(model)
    assert metrics["train/loss"] == pytest.approx(mean_loss.item(), rel=1e-5)
    norm = math.sqrt(sum(float(gradient.square().sum()) for gradient in gradients))
    assert metrics["train/grad_norm"] == pytest.approx(norm, rel=1e-5)
    assert metrics["train/q_mean"] == pytest.approx(float(loss.q_values.mean()), rel=1e-4)
    if prioritized:
        assert metrics["train/weight_mean"] == pytest.approx(2.65 / B)
        expected = (loss.priorities.double().numpy() + 1e-6) ** 0.5
        assert model.replay_buffer.tree[batch.indices] == pytest.approx(expected, rel=1e-6)
    else:
        assert "train/weight_mean" not in metrics
        assert np.array_equal(model.replay_buffer.tree[batch.indices], masses)


def test_gradient_norm_is_clipped_and_logged_as_it_was() -> None:
    model = model_with(True, True, learning_starts=100, max_grad_norm=0.01)
    model.learn(20)
    model.policy.optimizer = th.optim.SGD(model.q_net.parameters(), lr=1.0)
    before = [parameter.detach().clone() for parameter in model.q_net.parameters()]
    model.gradient_step(hand_made_batch(rewards=INSIDE))
    moved = [old - new.detach() for old, new in zip(before, model.q_net.parameters(), strict=True)]
    assert math.sqrt(sum(float(each.square().sum()) for each in moved)) == pytest.approx(0.01, rel=1e-2)
    assert logged(model)["train/grad_norm"] > 0.1
