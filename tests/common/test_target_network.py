"""The target network after an update: all that it computes is the online network's, not its parameters alone."""

from pathlib import Path
from typing import Any

import pytest
import torch as th
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor
from torch import nn

from sb3_distrl.distributed import ApeXQRDQN
from tests.common.envs import CountingEnv, vec_env
from tests.common.settings import ALGORITHMS, make

ON_EACH_STEP = dict(target_update_interval=1, overlap=False)


class Buffered(BaseFeaturesExtractor):
    """Its output depends on buffers of several kinds, which training changes, and on one that no file holds."""

    def __init__(self, observation_space: Any) -> None:
        super().__init__(observation_space, 6)
        self.normalized = nn.BatchNorm1d(3)
        self.spectral = nn.utils.parametrizations.spectral_norm(nn.Linear(3, 6))
        self.register_buffer("seen", th.zeros((), dtype=th.int64))
        self.register_buffer("flag", th.zeros(1, dtype=th.bool))
        self.register_buffer("directions", th.randn(6), persistent=False)

    def forward(self, x: th.Tensor) -> th.Tensor:
        if self.training:
            self.seen += len(x)
            self.flag |= True
        return self.spectral(self.normalized(x)) * self.directions + self.seen + self.flag


def make_model(name: str, **kwargs: Any) -> Any:
    return make(ALGORITHMS[name], policy_kwargs=dict(features_extractor_class=Buffered), **kwargs)


def encoded(network: Any, obs: th.Tensor) -> th.Tensor:
    """What the extractor makes of observations when no training changes it."""
    network.set_training_mode(False)
    with th.no_grad():
        return network.features_extractor(obs)


def assert_equal_networks(model: Any) -> None:
    obs = th.randn(5, 3)
    assert th.equal(encoded(model.q_net, obs), encoded(model.q_net_target, obs))
    for (key, online), target in zip(model.q_net.named_buffers(), model.q_net_target.buffers(), strict=True):
        assert th.equal(online, target), key


@pytest.mark.parametrize("name", ALGORITHMS)
def test_both_networks_are_equal_after_a_hard_update(name: str, tmp_path: Path) -> None:
    model = make_model(name, **ON_EACH_STEP, train_freq=2)
    assert_equal_networks(model)
    model.learn(41)
    assert model.q_net.features_extractor.seen > 0, "the buffers are not what they were at the beginning"
    model._on_step()
    assert_equal_networks(model)

    model.save(tmp_path / "model")
    loaded = type(model).load(tmp_path / "model", env=vec_env(), device="cpu")
    loaded.learn(30, reset_num_timesteps=False)
    assert loaded.q_net.features_extractor.seen > model.q_net.features_extractor.seen
    loaded._on_step()
    assert_equal_networks(loaded)


def normed(layer: nn.Conv2d) -> nn.Module:
    return nn.utils.parametrizations.spectral_norm(layer)


class Residual(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.convolutions = nn.ModuleList([normed(nn.Conv2d(channels, channels, 3, padding=1)) for _ in range(2)])

    def forward(self, x: th.Tensor) -> th.Tensor:
        first, second = self.convolutions
        return x + second(th.relu(first(th.relu(x))))


class Impala(BaseFeaturesExtractor):
    """The body of Espeholt et al. 2018, small, with spectral normalisation of the residual convolutions."""

    def __init__(self, observation_space: Any) -> None:
        layers: list[nn.Module] = []
        channels = observation_space.shape[0]
        for size in (4, 8):
            layers += [nn.Conv2d(channels, size, 3, padding=1), nn.MaxPool2d(3, stride=2, padding=1), Residual(size)]
            channels = size
        super().__init__(observation_space, 8 * 9 * 9)  # of 36x36
        self.layers = nn.Sequential(*layers, nn.ReLU(), nn.Flatten())

    def forward(self, x: th.Tensor) -> th.Tensor:
        return self.layers(x)


@pytest.mark.parametrize("name", ["Rainbow", "IQN", "QRDQN"])
def test_a_body_of_residual_convolutions_with_spectral_normalisation(name: str) -> None:
    policy_kwargs = dict(features_extractor_class=Impala, net_arch=[16])
    model = make(ALGORITHMS[name], vec_env("image"), kind="image", policy_kwargs=policy_kwargs, train_freq=4, **ON_EACH_STEP)
    model.learn(40)
    assert model._n_updates > 2
    model._on_step()
    obs = model.replay_buffer.sample(3).observations
    for network in (model.q_net, model.q_net_target):
        network.set_training_mode(False)
    with th.no_grad():
        assert th.equal(model.q_net.acting_values(obs), model.q_net_target.acting_values(obs))


def test_buffers_are_copied_whatever_tau() -> None:
    model = make_model("QRDQN", tau=0.1, target_update_interval=10)
    model.learn(60)
    model._n_calls = 9
    model._on_step()
    for online, target in zip(model.q_net.buffers(), model.q_net_target.buffers(), strict=True):
        assert th.equal(online, target)
    parameters = zip(model.q_net.parameters(), model.q_net_target.parameters(), strict=True)
    assert not all(th.equal(online, target) for online, target in parameters)


def test_buffers_wait_for_the_update() -> None:
    model = make_model("QRDQN", target_update_interval=1000)
    model.learn(60)
    assert model.q_net.features_extractor.seen > 0 and model.q_net_target.features_extractor.seen == 0


def test_buffers_of_actors() -> None:
    model = ApeXQRDQN(
        "MlpPolicy",
        CountingEnv,
        n_actors=1,
        collector="local",
        synchronous=True,
        block_steps=10,
        buffer_size=200,
        learning_starts=10,
        batch_size=4,
        target_update_interval=1,
        device="cpu",
        policy_kwargs=dict(features_extractor_class=Buffered, n_quantiles=5),
    )
    model.learn(60)
    assert model.q_net.features_extractor.seen > 0
    model._on_step()
    assert_equal_networks(model)
