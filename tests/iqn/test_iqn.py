"""IQN's loss against loops with the same draws, and the defaults of its paper (Dabney et al. 2018b)."""

from typing import Any

import gymnasium as gym
import pytest
import torch as th

from sb3_distrl import IQN
from sb3_distrl.networks import NatureConv
from tests.common.batches import B, check_weighted_step, hand_made_batch, loss_of, mean_choice, scramble
from tests.common.envs import CountingEnv
from tests.common.settings import make

N, M, K = 7, 4, 6


def model_with(double_q: bool, **kwargs: Any) -> Any:
    policy_kwargs = dict(n_quantiles=N, n_target_quantiles=M, n_eval_quantiles=K, n_cos=8)
    return scramble(make(IQN, double_q=double_q, policy_kwargs=policy_kwargs, **kwargs), seed=15, scale=0.7)


def huber(error: float, kappa: float) -> float:
    """L_kappa / kappa of IQN, equation 3."""
    if kappa == 0:
        return abs(error)
    return (0.5 * error**2 if abs(error) <= kappa else kappa * (abs(error) - 0.5 * kappa)) / kappa


def quantiles_of(network: Any, obs: th.Tensor, taus: th.Tensor) -> list[list[list[float]]]:
    return network.quantiles(network.encode(obs), taus).tolist()  # [B][N][A]


@pytest.mark.parametrize("kappa", [1.0, 0.5, 0.0])
@pytest.mark.parametrize("double_q", [False, True])
def test_loss(double_q: bool, kappa: float) -> None:
    model, batch = model_with(double_q, kappa=kappa), hand_made_batch()
    th.manual_seed(11)
    loss = loss_of(model, batch)
    losses = loss.losses.tolist()

    th.manual_seed(11)
    choosing_taus, target_taus, taus = th.rand(B, K), th.rand(B, M), th.rand(B, N)
    with th.no_grad():
        online_choices = quantiles_of(model.q_net, batch.next_observations, choosing_taus)  # [B][K][A]
        target_choices = quantiles_of(model.q_net_target, batch.next_observations, choosing_taus)
        next_quantiles = quantiles_of(model.q_net_target, batch.next_observations, target_taus)  # [B][M][A]
        quantiles = quantiles_of(model.q_net, batch.observations, taus)  # [B][N][A]
    disagreements = 0
    for b in range(B):
        online_action, target_action = mean_choice(online_choices[b]), mean_choice(target_choices[b])
        disagreements += online_action != target_action and float(batch.dones[b]) == 0
        action = online_action if double_q else target_action
        bootstrap = float((1 - batch.dones[b]) * batch.discounts[b])
        targets = [float(batch.rewards[b]) + bootstrap * next_quantiles[b][j][action] for j in range(M)]
        predicted = [quantiles[b][i][int(batch.actions[b])] for i in range(N)]
        expected = 0.0
        for i in range(N):
            for j in range(M):
                error = targets[j] - predicted[i]
                expected += abs(float(taus[b, i]) - (error < 0)) * huber(error, kappa) / M
        assert losses[b] == pytest.approx(expected, rel=1e-4)
        assert float(loss.priorities[b]) == pytest.approx(expected, rel=1e-4)
        assert float(loss.q_values[b]) == pytest.approx(sum(predicted) / N, rel=1e-4)
    assert disagreements >= 2, "else this test cannot tell double_q from its absence"


def test_weights_multiply_the_loss_of_each_sample() -> None:
    check_weighted_step(model_with(True, prioritized=True, learning_starts=100))


def test_fractions_are_drawn_or_midpoints() -> None:
    """Deterministic values are means over the midpoints; others over draws, another one for each call."""
    model = model_with(False)
    obs = th.randn(B, 3)
    midpoints = th.tensor([[(2 * i + 1) / (2 * K) for i in range(K)]]).expand(B, K)
    with th.no_grad():
        assert th.allclose(model.q_net(obs), model.q_net.quantiles(model.q_net.encode(obs), midpoints).mean(dim=1))
        features = model.q_net.encode(obs)
        assert not th.equal(model.q_net.sampled_values(features), model.q_net.sampled_values(features))
        same = obs[:1].expand(200, 3)
        model.q_net.head.stream.layers[-1].bias.zero_()
        sampled = model.q_net.sampled_values(model.q_net.encode(same))
        assert sampled.std(dim=0).min() > 0, "each row has fractions of its own"


def test_defaults() -> None:
    model = IQN("MlpPolicy", gym.make("CartPole-v1"), device="cpu")
    assert model.learning_rate == 5e-5
    assert model.policy.optimizer.param_groups[0]["eps"] == 0.01 / 32
    assert model.batch_size == 32
    assert model.buffer_size == model.replay_buffer.buffer_size == 1_000_000
    assert model.learning_starts == 50_000
    assert (model.train_freq.frequency, model.train_freq.unit.value, model.gradient_steps) == (4, "step", 1)
    assert model.target_update_interval == 10_000
    assert model.n_steps == model.replay_buffer.n_steps == 1
    assert model.kappa == 1.0
    assert (model.policy.n_quantiles, model.policy.n_target_quantiles, model.q_net.n_eval_quantiles) == (64, 64, 32)
    assert len(model.q_net.embedding.frequencies) == 64
    assert not model.double_q and not model.prioritized and model.replay_buffer.alpha == 0.0
    assert (model.exploration_initial_eps, model.exploration_final_eps) == (1.0, 0.01)
    assert model.exploration_fraction * 50_000_000 == pytest.approx(250_000)
    assert model.replay_ratio is None and model.max_grad_norm is None


def test_embedding_multiplies_the_convolutions() -> None:
    model = IQN("CnnPolicy", CountingEnv("image"), buffer_size=10, device="cpu")
    assert isinstance(model.q_net.features_extractor, NatureConv)
    assert model.q_net.embedding.linear.out_features == 64
    layers = [layer for layer in model.q_net.head.stream.layers if isinstance(layer, th.nn.Linear)]
    assert [(layer.in_features, layer.out_features) for layer in layers] == [(64, 512), (512, 3)]
