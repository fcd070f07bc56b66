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
