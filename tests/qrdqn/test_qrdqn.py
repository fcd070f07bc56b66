"""QRDQN's loss against loops, and its defaults, which are sb3-contrib's."""

import inspect
from typing import Any

import gymnasium as gym
import pytest
import sb3_contrib
import torch as th

from sb3_distrl import QRDQN
from tests.common.batches import B, check_weighted_step, hand_made_batch, loss_of, mean_choice, scramble
from tests.common.settings import make

N = 4


def model_with(double_q: bool, **kwargs: Any) -> Any:
    return scramble(make(QRDQN, double_q=double_q, policy_kwargs=dict(n_quantiles=N), **kwargs), seed=28, scale=0.7)


def quantile_huber(targets: list[float], predicted: list[float]) -> float:
    """QR-DQN, equation 10 and Algorithm 1, with kappa = 1."""
    total = 0.0
    for i in range(N):
        for target in targets:
            error = target - predicted[i]
            huber = 0.5 * error**2 if abs(error) <= 1 else abs(error) - 0.5
            total += abs((2 * i + 1) / (2 * N) - (error < 0)) * huber / len(targets)
    return total


@pytest.mark.parametrize("double_q", [False, True])
def test_loss(double_q: bool) -> None:
    model, batch = model_with(double_q), hand_made_batch()
    loss = loss_of(model, batch)
    losses = loss.losses.tolist()
    with th.no_grad():
        next_online = model.q_net(batch.next_observations).tolist()  # [B][N][A]
        next_target = model.q_net_target(batch.next_observations).tolist()
        quantiles = model.q_net(batch.observations).tolist()
    disagreements = 0
    for b in range(B):
        online_action, target_action = mean_choice(next_online[b]), mean_choice(next_target[b])
        disagreements += online_action != target_action and float(batch.dones[b]) == 0
        action = online_action if double_q else target_action
        bootstrap = float((1 - batch.dones[b]) * batch.discounts[b])
        targets = [float(batch.rewards[b]) + bootstrap * row[action] for row in next_target[b]]
        predicted = [row[int(batch.actions[b])] for row in quantiles[b]]
        expected = quantile_huber(targets, predicted)
        assert losses[b] == pytest.approx(expected, rel=1e-4)
        assert float(loss.priorities[b]) == pytest.approx(expected, rel=1e-4)
        assert float(loss.q_values[b]) == pytest.approx(sum(predicted) / N, rel=1e-4)
    assert disagreements >= 2, "else this test cannot tell double_q from its absence"


def test_weights_multiply_the_loss_of_each_sample() -> None:
    check_weighted_step(model_with(False, prioritized=True, learning_starts=100))


def test_arguments_and_defaults_are_those_of_sb3_contrib() -> None:
    ours = inspect.signature(QRDQN.__init__).parameters
    theirs = inspect.signature(sb3_contrib.QRDQN.__init__).parameters
    defaults = {name: each.default for name, each in theirs.items()}
    assert {name: ours[name].default for name in theirs} == {**defaults, "optimize_memory_usage": None}  # on for images
    new = ["double_q", "prioritized", "alpha", "beta_initial", "beta_final", "beta_fraction", "replay_ratio"]
    new += ["overlap", "precision", "compile", "risk", "bootstrap_risk"]
    assert [name for name in ours if name not in theirs] == new
    assert [name for name in ours if name in theirs] == list(theirs), "in the same order"
    assert not ours["double_q"].default and not ours["prioritized"].default


@pytest.mark.parametrize("batch_size", [32, 8])
def test_networks_are_those_of_sb3_contrib(batch_size: int) -> None:
    models = [
        algorithm("MlpPolicy", gym.make("CartPole-v1"), buffer_size=10, batch_size=batch_size, seed=0, device="cpu")
        for algorithm in (QRDQN, sb3_contrib.QRDQN)
    ]
    ours, theirs = models
    assert type(ours.policy) is type(theirs.policy)
    assert ours.policy.optimizer.param_groups[0]["eps"] == theirs.policy.optimizer.param_groups[0]["eps"] == 0.01 / batch_size
    assert ours.n_quantiles == theirs.n_quantiles == 200
    assert ours.quantile_net is ours.q_net and ours.quantile_net_target is ours.q_net_target
