"""With every switch off the algorithms are those of SB3 and sb3-contrib, update for update."""

from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import sb3_contrib
import torch as th
from stable_baselines3 import DQN
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.buffers import DictReplayBuffer, NStepReplayBuffer, ReplayBuffer
from stable_baselines3.common.torch_layers import NatureCNN

from sb3_distrl import QRDQN, Rainbow
from sb3_distrl.buffers import PrioritizedDictReplayBuffer, PrioritizedReplayBuffer
from tests.common.envs import POLICIES, CountingEnv, vec_env

OFF = dict(double_q=False, prioritized=False)
OFF_NET = dict(dueling=False, noisy=False, distributional=False)
SETTINGS: dict[str, Any] = dict(
    learning_rate=2e-3,
    buffer_size=150,  # the oldest transitions are overwritten
    learning_starts=40,
    batch_size=16,
    gamma=0.95,
    train_freq=2,
    gradient_steps=1,
    target_update_interval=37,
    exploration_fraction=0.5,
    exploration_initial_eps=0.9,
    exploration_final_eps=0.1,
    max_grad_norm=0.5,
    seed=7,
    device="cpu",
)
TOTAL = 260  # 110 gradient steps, 7 target updates
BUFFERS: dict[str, dict[str, Any]] = {
    "SB3's buffer": dict(replay_buffer_class=ReplayBuffer),
    "our buffer": dict(replay_buffer_class=PrioritizedReplayBuffer, replay_buffer_kwargs=dict(gamma=0.95)),
    "our buffer, 3 steps": dict(replay_buffer_class=PrioritizedReplayBuffer, replay_buffer_kwargs=dict(n_steps=3, gamma=0.95)),
}


def cart_pole() -> gym.Env:
    return gym.make("CartPole-v1")


def images() -> gym.Env:
    return CountingEnv("image")


def copy_in_order(source: th.nn.Module, target: th.nn.Module) -> None:
    """Parameters have other names, but the same order and shapes."""
    ours, theirs = list(target.parameters()), list(source.parameters())
    assert [each.shape for each in ours] == [each.shape for each in theirs]
    for parameter, value in zip(ours, theirs, strict=True):
        parameter.data.copy_(value.data)


def networks(model: BaseAlgorithm) -> list[th.nn.Module]:
    if isinstance(model, DQN):
        return [model.q_net, model.q_net_target]
    return [model.quantile_net, model.quantile_net_target]


def assert_same_run(ours: BaseAlgorithm, theirs: BaseAlgorithm, total: int = TOTAL) -> None:
    """
    Learn with both, and see that all that can be compared is the same.

    :param ours: with the initial parameters of ``theirs``
    :param theirs: of SB3 or sb3-contrib
    :param total: environment steps
    """
    ours.overlap = False
    initial = [parameter.clone() for network in networks(ours) for parameter in network.parameters()]
    for model in (ours, theirs):
        model.set_random_seed(11)
        model.learn(total)
    assert ours._n_updates == theirs._n_updates >= 100
    assert ours.num_timesteps == theirs.num_timesteps and ours.exploration_rate == theirs.exploration_rate
    for name in ("actions", "rewards", "dones", "timeouts"):
        assert np.array_equal(getattr(ours.replay_buffer, name), getattr(theirs.replay_buffer, name)), name
    for our_network, their_network in zip(networks(ours), networks(theirs), strict=True):
        for one, other in zip(our_network.parameters(), their_network.parameters(), strict=True):
            assert th.allclose(one, other, rtol=1e-5, atol=1e-6), (one - other).abs().max()
    final = [parameter for network in networks(ours) for parameter in network.parameters()]
    assert all((old - new).abs().max() > 1e-4 for old, new in zip(initial, final, strict=True)), "both networks have learnt"
    online, target = networks(ours)
    pairs = zip(online.parameters(), target.parameters(), strict=True)
    assert any(not th.equal(one, other) for one, other in pairs), "the target network lags behind"


def dqn_and_rainbow(
    policy: str, env_fn: Any, net: dict[str, Any], dqn_only: dict[str, Any], ours_only: dict[str, Any], **shared: Any
) -> tuple[DQN, Rainbow]:
    """
    :param policy: name of the policy
    :param env_fn: makes the environment
    :param net: arguments of both policies
    :param dqn_only: arguments of DQN
    :param ours_only: arguments of Rainbow, beside those that switch it off
    :param shared: arguments of both
    :return: both models, with the same parameters
    """
    dqn_net = {**net, "optimizer_kwargs": dict(eps=1.5e-4, fused=True)}  # what Rainbow takes unless told otherwise
    dqn = DQN(policy, env_fn(), policy_kwargs=dqn_net, **{**SETTINGS, **shared, **dqn_only})
    rainbow = Rainbow(policy, env_fn(), policy_kwargs={**net, **OFF_NET}, **{**SETTINGS, **OFF, **shared, **ours_only})
    copy_in_order(dqn.q_net, rainbow.q_net)
    copy_in_order(dqn.q_net_target, rainbow.q_net_target)
    return dqn, rainbow


def n_steps_of(buffer: str) -> dict[str, int]:
    """Our algorithms are told; SB3's would warn that they ignore it."""
    return dict(n_steps=BUFFERS[buffer].get("replay_buffer_kwargs", {}).get("n_steps", 1))


@pytest.mark.parametrize(
    ("buffer", "tau"), [("SB3's buffer", 1.0), ("SB3's buffer", 0.3), ("our buffer", 1.0), ("our buffer, 3 steps", 0.3)]
)
def test_rainbow_is_dqn(buffer: str, tau: float) -> None:
    net = dict(net_arch=[16, 12])
    dqn, rainbow = dqn_and_rainbow("MlpPolicy", cart_pole, net, {}, n_steps_of(buffer), tau=tau, **BUFFERS[buffer])
    assert_same_run(rainbow, dqn)


def test_rainbow_is_dqn_without_further_ado() -> None:
    """Rainbow's own choice of a buffer draws in another order, but one seed makes the same networks."""
    dqn = DQN("MlpPolicy", cart_pole(), policy_kwargs=dict(optimizer_kwargs=dict(eps=1.5e-4, fused=True)), **SETTINGS)
    rainbow = Rainbow("MlpPolicy", cart_pole(), n_steps=1, policy_kwargs=OFF_NET, **{**SETTINGS, **OFF})
    for one, other in zip(rainbow.q_net.parameters(), dqn.q_net.parameters(), strict=True):
        assert th.equal(one, other), "one seed gives the same initial parameters"
    obs = th.randn(9, 4)
    assert th.equal(rainbow.q_net(obs), dqn.q_net(obs))
    assert type(rainbow.replay_buffer) is PrioritizedReplayBuffer and rainbow.replay_buffer.alpha == 0


# What SB3 sets up by itself where it is told n_steps=3
THREE_STEPS = dict(n_steps=3, replay_buffer_class=NStepReplayBuffer, replay_buffer_kwargs=dict(n_steps=3, gamma=0.95))


def test_rainbow_is_dqn_with_n_steps() -> None:
    dqn, rainbow = dqn_and_rainbow("MlpPolicy", cart_pole, dict(net_arch=[16]), dict(n_steps=3), THREE_STEPS)
    assert type(dqn.replay_buffer) is NStepReplayBuffer
    assert_same_run(rainbow, dqn)


@pytest.mark.parametrize("extractor", [NatureCNN, None])
def test_rainbow_is_dqn_with_images(extractor: Any) -> None:
    """SB3's network, and this library's convolutions with a head of 512 units, which is the same function."""
    net = {} if extractor is None else dict(features_extractor_class=extractor)
    settings = dict(batch_size=8, learning_rate=5e-4, **BUFFERS["SB3's buffer"])
    dqn, rainbow = dqn_and_rainbow("CnnPolicy", images, net, {}, dict(n_steps=1), **settings)
    assert_same_run(rainbow, dqn, total=460)  # rounding of other layouts in memory may show for other numbers


def small_net() -> dict[str, Any]:
    return dict(net_arch=[16], n_quantiles=9)  # a new one each time, as sb3-contrib writes into it


@pytest.mark.parametrize(
    ("buffer", "max_grad_norm"),
    [("SB3's buffer", None), ("SB3's buffer", 0.5), ("our buffer", 0.5), ("our buffer, 3 steps", None)],
)
def test_qrdqn_is_that_of_sb3_contrib(buffer: str, max_grad_norm: float | None) -> None:
    kwargs = {**SETTINGS, **BUFFERS[buffer], "max_grad_norm": max_grad_norm}
    theirs = sb3_contrib.QRDQN("MlpPolicy", cart_pole(), policy_kwargs=small_net(), **kwargs)
    ours = QRDQN("MlpPolicy", cart_pole(), policy_kwargs=small_net(), **n_steps_of(buffer), **kwargs)
    assert_same_run(ours, theirs)


def test_qrdqn_is_that_of_sb3_contrib_with_n_steps() -> None:
    theirs = sb3_contrib.QRDQN("MlpPolicy", cart_pole(), n_steps=3, policy_kwargs=small_net(), **SETTINGS)
    ours = QRDQN("MlpPolicy", cart_pole(), policy_kwargs=small_net(), **SETTINGS, **THREE_STEPS)
    assert_same_run(ours, theirs)


@pytest.mark.parametrize("kind", ["image", "dict"])
def test_qrdqn_is_that_of_sb3_contrib_with_other_observations(kind: str) -> None:
    settings = {**SETTINGS, "batch_size": 8, "learning_rate": 5e-4, "max_grad_norm": None}
    buffer_class = DictReplayBuffer if kind == "dict" else ReplayBuffer
    ours, theirs = (
        algorithm(POLICIES[kind], CountingEnv(kind), replay_buffer_class=buffer_class, policy_kwargs=small_net(), **settings)
        for algorithm in (QRDQN, sb3_contrib.QRDQN)
    )
    assert_same_run(ours, theirs)


@pytest.mark.parametrize("n_envs", [1, 3])
@pytest.mark.parametrize("kind", ["box", "dict"])
@pytest.mark.parametrize("algorithm", [DQN, sb3_contrib.QRDQN])
def test_unmodified_algorithms_run_with_our_buffer(algorithm: Any, kind: str, n_envs: int) -> None:
    model = algorithm(
        POLICIES.get(kind, "MlpPolicy"),
        vec_env(kind, n_envs),
        replay_buffer_class=PrioritizedDictReplayBuffer if kind == "dict" else PrioritizedReplayBuffer,
        replay_buffer_kwargs=dict(n_steps=3, gamma=0.95),
        policy_kwargs=dict(net_arch=[8]),
        **{**SETTINGS, "buffer_size": 90},
    )
    samples = []
    sample = model.replay_buffer.sample

    def keep(*args: Any, **kwargs: Any) -> Any:
        samples.append(sample(*args, **kwargs))
        return samples[-1]

    model.replay_buffer.sample = keep
    model.learn(120)
    assert len(samples) == model._n_updates > 10
    discounts = {round(float(each), 4) for batch in samples for each in batch.discounts}
    assert discounts == {0.95, 0.9025, 0.8574}, "the returns have 1 to 3 steps"
    buffer = model.replay_buffer
    stored = buffer.size() * n_envs
    assert np.array_equal(buffer.tree[np.arange(stored)], np.ones(stored)), "priorities stay at the initial ones"
    assert buffer.tree.groups.sum() == stored
    counts = np.bincount(buffer.sample(10 * stored).indices, minlength=stored)
    assert counts.min() >= 9 and counts.max() <= 11, "sampling is uniform, and stratified"
    assert all(th.equal(batch.weights, th.ones_like(batch.weights)) for batch in samples)
