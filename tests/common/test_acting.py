"""Q-values, over all algorithms."""

from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch as th

from sb3_distrl import IQN, QRDQN, Rainbow
from sb3_distrl.rainbow.policies import RainbowNetwork, RainbowPolicy
from tests.common.batches import scramble
from tests.common.envs import KINDS, vec_env
from tests.common.settings import ALGORITHMS, SETTINGS, make

RISKS = ["mean", "cvar:0.25", "wang:-0.75", "power:2", "cpw", "norm"]


def spread_out(name: str, **kwargs: Any) -> Any:
    """:return: a model whose values differ for all actions"""
    return scramble(make(SETTINGS[name], **kwargs), seed=5, scale=0.8)


def observations(n: int = 200) -> np.ndarray:
    return np.random.default_rng(0).normal(size=(n, 3)).astype(np.float32)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", ALGORITHMS)
def test_q_values_take_what_predict_takes(name: str, kind: str) -> None:
    model = make(ALGORITHMS[name], vec_env(kind, n_envs=4), kind=kind)
    obs = model.env.reset()
    several = model.q_values(obs)
    assert isinstance(several, np.ndarray) and several.shape == (4, 3) and several.dtype == np.float32
    one = model.q_values({key: value[1] for key, value in obs.items()} if isinstance(obs, dict) else obs[1])
    assert one.shape == (3,) and np.allclose(one, several[1], atol=1e-5)


@pytest.mark.parametrize("name", SETTINGS)
def test_predict_maximises_q_values(name: str) -> None:
    model, obs = spread_out(name), observations()
    values = model.q_values(obs)
    assert np.array_equal(values.argmax(axis=1), model.predict(obs, deterministic=True)[0])
    assert np.array_equal(values, model.q_values(obs)), "there is no noise in them"
    if SETTINGS[name].policy_kwargs.get("distributional", True):
        assert np.allclose(values, model.predict_distribution(obs).mean(), atol=1e-4)


@pytest.mark.parametrize("risk", RISKS)
@pytest.mark.parametrize("name", ALGORITHMS)
def test_q_values_follow_the_risk(name: str, risk: str) -> None:
    model, obs = spread_out(name, risk=risk), observations()
    values = model.q_values(obs)
    assert np.array_equal(values.argmax(axis=1), model.predict(obs, deterministic=True)[0])
    if name != "IQN" or risk == "mean":  # otherwise it asks the network for other quantiles than those of the distribution
        assert np.allclose(values, model.predict_distribution(obs).risk(risk), atol=1e-4)
    means = model.q_values(obs, risk="mean")
    assert np.allclose(means, model.predict_distribution(obs).mean(), atol=1e-4)
    model.risk = "mean"
    assert np.array_equal(model.q_values(obs, risk=risk), values) and np.array_equal(model.q_values(obs), means)


def test_q_values_with_an_unknown_risk() -> None:
    with pytest.raises(ValueError, match="risk='averse' is unknown"):
        make(IQN).q_values(observations(2), risk="averse")
    with pytest.raises(ValueError, match="distributional=True"):
        make(SETTINGS["DQN"]).q_values(observations(2), risk="cvar:0.5")


@pytest.mark.parametrize("kind", ["box", "image", "dict", "discrete"])
@pytest.mark.parametrize("name", ["Rainbow", "DQN", "Noisy DQN", "IQN", "IQN with all"])
def test_q_net_gives_q_values_as_in_sb3(name: str, kind: str) -> None:
    """The recipe that SB3's users know: obs_to_tensor, then q_net."""
    model = make(SETTINGS[name], vec_env(kind, n_envs=4), kind=kind)
    obs = model.env.reset()
    tensor, _ = model.policy.obs_to_tensor(obs)
    with th.no_grad():
        assert np.array_equal(model.q_net(tensor).numpy(), model.q_values(obs))


def test_quantile_net_gives_quantiles_as_in_sb3_contrib() -> None:
    model, obs = make(QRDQN), observations(5)
    with th.no_grad():
        quantiles = model.quantile_net(th.tensor(obs))
    assert quantiles.shape == (5, 9, 3)
    assert np.array_equal(quantiles.mean(dim=1).numpy(), model.q_values(obs))


def test_a_forward_of_ones_own_is_not_ignored_silently() -> None:
    class Shifted(RainbowNetwork):
        def forward(self, obs: Any) -> th.Tensor:
            return super().forward(obs) + 1

    class ShiftedPolicy(RainbowPolicy):
        network_class = Shifted

    with pytest.raises(ValueError, match=r"Shifted overrides forward.*override encode"):
        Rainbow(ShiftedPolicy, gym.make("CartPole-v1"), buffer_size=100)
