"""Defaults of Rainbow's paper (Hessel et al. 2018, table 1)."""

import gymnasium as gym
import pytest
import torch as th

from sb3_distrl import Rainbow
from sb3_distrl.networks import DuelingHead, NatureConv, NoisyLinear
from tests.common.envs import CountingEnv


@pytest.fixture(scope="module")
def model() -> Rainbow:
    return Rainbow("MlpPolicy", gym.make("CartPole-v1"), device="cpu")


def test_training(model: Rainbow) -> None:
    assert model.learning_rate == 6.25e-5
    assert model.policy.optimizer.param_groups[0]["lr"] == 6.25e-5
    assert isinstance(model.policy.optimizer, th.optim.Adam)
    assert model.policy.optimizer.param_groups[0]["eps"] == 1.5e-4
    assert model.batch_size == 32
    assert model.buffer_size == model.replay_buffer.buffer_size == 1_000_000
    assert model.learning_starts == 20_000
    assert (model.train_freq.frequency, model.train_freq.unit.value, model.gradient_steps) == (4, "step", 1)
    assert model.target_update_interval == 8_000
    assert (model.tau, model.gamma) == (1.0, 0.99)
    assert model.replay_ratio is None


def test_components(model: Rainbow) -> None:
    assert model.double_q and model.prioritized
    assert model.n_steps == model.replay_buffer.n_steps == 3
    assert model.replay_buffer.gamma == model.gamma
    assert model.alpha == model.replay_buffer.alpha == 0.5
    assert (model.beta_initial, model.beta_final, model.beta_fraction) == (0.4, 1.0, 1.0)
    assert model.beta == 0.4
    assert (model.exploration_initial_eps, model.exploration_final_eps) == (0.0, 0.0)


def test_network(model: Rainbow) -> None:
    for network in (model.q_net, model.q_net_target):
        assert network.distributional
        assert network.support.tolist() == pytest.approx([-10 + 0.4 * i for i in range(51)], abs=1e-5)
        assert isinstance(network.head, DuelingHead)
        layers = [layer for layer in network.modules() if isinstance(layer, th.nn.Linear)]
        assert all(isinstance(layer, NoisyLinear) for layer in layers) and len(layers) == 5
        for layer in layers:
            sigma = 0.5 / layer.in_features**0.5
            assert th.allclose(layer.weight_sigma, th.tensor(sigma)) and th.allclose(layer.bias_sigma, th.tensor(sigma))


def test_epsilon_without_noise() -> None:
    model = Rainbow("MlpPolicy", gym.make("CartPole-v1"), buffer_size=10, device="cpu", policy_kwargs=dict(noisy=False))
    assert (model.exploration_initial_eps, model.exploration_final_eps) == (1.0, 0.01)
    assert model.exploration_fraction * 50_000_000 == pytest.approx(250_000 / 4), "250k frames"
    given = Rainbow(
        "MlpPolicy",
        gym.make("CartPole-v1"),
        buffer_size=10,
        device="cpu",
        exploration_initial_eps=0.3,
        exploration_final_eps=0.2,
    )
    assert (given.exploration_initial_eps, given.exploration_final_eps) == (0.3, 0.2)


def test_streams_of_images_start_at_the_convolutions() -> None:
    model = Rainbow("CnnPolicy", CountingEnv("image"), buffer_size=10, device="cpu")
    assert isinstance(model.q_net.features_extractor, NatureConv)
    streams = [model.q_net.head.stream, model.q_net.head.value_stream]
    for stream, outputs in zip(streams, (3 * 51, 51), strict=True):
        sizes = [(layer.in_features, layer.out_features) for layer in stream.layers if isinstance(layer, NoisyLinear)]
        assert sizes == [(64, 512), (512, outputs)]


def test_adam_eps_gives_way_to_what_is_given() -> None:
    env = gym.make("CartPole-v1")
    other = Rainbow("MlpPolicy", env, buffer_size=10, device="cpu", policy_kwargs=dict(optimizer_kwargs=dict(eps=1e-3)))
    assert other.policy.optimizer.param_groups[0]["eps"] == 1e-3
    sgd = Rainbow("MlpPolicy", env, buffer_size=10, device="cpu", policy_kwargs=dict(optimizer_class=th.optim.SGD))
    assert isinstance(sgd.policy.optimizer, th.optim.SGD)
