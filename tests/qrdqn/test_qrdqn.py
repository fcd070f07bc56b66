"""QRDQN's loss against loops, and its defaults, which are sb3-contrib's."""

import inspect
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import sb3_contrib
import torch as th

from sb3_distrl import QRDQN
from sb3_distrl.qrdqn.policies import QRDQNPolicy
from tests.common.batches import B, check_weighted_step, hand_made_batch, loss_of, mean_choice, scramble
from tests.common.envs import vec_env
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
    for mine, other in zip(ours.policy.parameters(), theirs.policy.parameters(), strict=True):
        assert th.equal(mine, other)
    obs = th.randn(5, 4)
    assert th.equal(ours.quantile_net(obs), theirs.quantile_net(obs)) and ours.quantile_net(obs).shape == (5, 200, 2)
    assert ours.policy.optimizer.param_groups[0]["eps"] == theirs.policy.optimizer.param_groups[0]["eps"] == 0.01 / batch_size
    assert ours.n_quantiles == ours.policy.n_quantiles == theirs.n_quantiles == 200
    for net in (ours.quantile_net, ours.policy.quantile_net):
        assert net is ours.q_net
    for net in (ours.quantile_net_target, ours.policy.quantile_net_target):
        assert net is ours.q_net_target


@pytest.mark.parametrize("name", ["MlpPolicy", "CnnPolicy", "MultiInputPolicy"])
def test_policy_classes_of_sb3_contrib(name: str) -> None:
    """They stand for ours, and what arguments mean there they mean here."""
    kind = {"MlpPolicy": "box", "CnnPolicy": "image", "MultiInputPolicy": "dict"}[name]
    policy_kwargs = dict(n_quantiles=7, activation_fn=th.nn.Tanh)
    models = [
        algorithm(policy, vec_env(kind), buffer_size=50, seed=0, policy_kwargs=dict(policy_kwargs), device="cpu")
        for algorithm, policy in ((QRDQN, getattr(sb3_contrib.qrdqn, name)), (sb3_contrib.QRDQN, name))
    ]
    ours, theirs = models
    assert type(ours.policy) is QRDQN.policy_aliases[name]
    for mine, other in zip(ours.policy.parameters(), theirs.policy.parameters(), strict=True):
        assert th.equal(mine, other)


def test_subclasses_of_policies_of_sb3_contrib() -> None:
    """Their networks would not be used."""

    class Mine(sb3_contrib.qrdqn.CnnPolicy):
        pass

    with pytest.raises(ValueError, match=r"policy=Mine is a subclass of sb3-contrib's CnnPolicy.*qrdqn.policies.CnnPolicy"):
        QRDQN(Mine, vec_env("image"), buffer_size=50)


def test_policy_files_of_sb3_contrib(tmp_path: Path) -> None:
    theirs = sb3_contrib.QRDQN("MlpPolicy", vec_env(), policy_kwargs=dict(net_arch=[8, 6], n_quantiles=5), device="cpu")
    theirs.policy.save(tmp_path / "policy")
    ours = QRDQNPolicy.load(tmp_path / "policy", device="cpu")
    obs = th.randn(4, 3)
    assert th.equal(ours.quantile_net(obs), theirs.quantile_net(obs))
    assert th.equal(ours.quantile_net_target(obs), theirs.quantile_net_target(obs))


@pytest.mark.parametrize("components", [dict(dueling=True), dict(noisy=True), dict(dueling=True, noisy=True)])
def test_components_of_rainbow(components: dict[str, bool], tmp_path: Path) -> None:
    policy_kwargs = dict(net_arch=[16, 16], n_quantiles=5, **components)
    model = QRDQN(
        "MlpPolicy", vec_env(), learning_starts=20, buffer_size=200, policy_kwargs=policy_kwargs, double_q=True, seed=0
    )
    before = {name: value.clone() for name, value in model.q_net.state_dict().items()}
    model.learn(60)
    after = model.q_net.state_dict()
    assert all(not th.equal(value, after[name]) for name, value in before.items()), "all layers learn"
    assert any("value_stream" in name for name in after) == ("dueling" in components)
    assert any("weight_sigma" in name for name in after) == ("noisy" in components)
    obs = np.random.default_rng(0).normal(size=(6, 3)).astype(np.float32)
    model.save(tmp_path / "model")
    loaded = QRDQN.load(tmp_path / "model", device="cpu")
    np.testing.assert_array_equal(loaded.q_values(obs), model.q_values(obs))
    if "noisy" in components:
        model.policy.set_training_mode(False)
        rows = th.zeros(2, 3)
        noisy = model.q_net.acting_values(rows, deterministic=False)
        assert not th.equal(noisy[0], noisy[1]), "each row has noise of its own"
        assert th.equal(*model.q_net.acting_values(rows))


def test_quantiles_of_a_dueling_head() -> None:
    """V + A - mean A for each quantile, with the outputs of the last layer in sb3-contrib's order, [N, A]."""
    policy_kwargs = dict(net_arch=[4], n_quantiles=2, dueling=True)
    network = QRDQN("MlpPolicy", vec_env(), buffer_size=50, policy_kwargs=policy_kwargs, device="cpu").q_net
    n_actions = network.action_space.n
    with th.no_grad():
        for parameter in network.parameters():
            parameter.zero_()
        network.head.stream.layers[-1].bias.copy_(th.arange(2.0 * n_actions))  # n A + a
        network.head.value_stream.layers[-1].bias.copy_(th.tensor([10.0, 20.0]))
    actions = th.arange(float(n_actions))
    centred = actions - actions.mean()
    expected = th.stack([10 + centred, 20 + centred])  # [N, A]
    assert th.equal(network(th.zeros(1, 3))[0], expected)
