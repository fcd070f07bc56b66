"""Acting by a measure of the distribution, over all algorithms: predict, evaluation, learning, saving and loading."""

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import sb3_contrib
import torch as th
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.save_util import load_from_zip_file, save_to_zip_file
from stable_baselines3.common.vec_env import VecMonitor

from sb3_distrl import IQN, QRDQN, Rainbow
from sb3_distrl.common.distribution import ValueDistribution
from sb3_distrl.functional import MEAN, CVaR, Distortion, Norm, gather_actions
from tests.common.batches import B, hand_made_batch, loss_of, scramble
from tests.common.envs import KINDS, vec_env
from tests.common.settings import ALGORITHMS, SETTINGS, Setting, assert_same_parameters, make, snapshot

DISTRIBUTIONAL = {name: each for name, each in SETTINGS.items() if each.policy_kwargs.get("distributional", True)}
RISKS = ["cvar:0.25", "wang:-0.75", "wang:0.75", "power:-2", "power:2", "cpw", "norm"]
IDENTITIES = ["mean", "cvar:1", "wang:0", "power:0", "cpw:1", "norm:1"]


def spread_out(name: str, **kwargs: Any) -> Any:
    """:return: a model whose distributions are wide, and different for all actions"""
    return scramble(make(DISTRIBUTIONAL[name], **kwargs), seed=5, scale=0.8)


def observations(model: Any, n: int = 200) -> np.ndarray:
    return np.random.default_rng(0).normal(size=(n, *model.observation_space.shape)).astype(np.float32)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", ALGORITHMS)
def test_predict_distribution_takes_what_predict_takes(name: str, kind: str) -> None:
    model = make(ALGORITHMS[name], vec_env(kind, n_envs=3), kind=kind)
    obs = model.env.reset()
    several = model.predict_distribution(obs)
    assert isinstance(several, ValueDistribution) and several.values.shape[:2] == (3, 3)
    one = {key: value[1] for key, value in obs.items()} if isinstance(obs, dict) else obs[1]
    single = model.predict_distribution(one)
    assert single.values.shape == several.values.shape[1:]
    assert np.allclose(single.values, several.values[1], atol=1e-5)
    assert np.allclose(single.probabilities, several.probabilities[1], atol=1e-5)


@pytest.mark.parametrize("name", DISTRIBUTIONAL)
def test_means_are_the_values_that_predict_maximises(name: str) -> None:
    model = spread_out(name)
    obs = observations(model)
    distribution = model.predict_distribution(obs)
    assert np.array_equal(distribution.mean().argmax(axis=1), model.predict(obs, deterministic=True)[0])
    assert np.array_equal(distribution.values, model.predict_distribution(obs).values), "there is no noise in it"
    with th.no_grad():
        outputs = model.q_net(th.tensor(obs))
        values = outputs.mean(dim=1) if isinstance(model, QRDQN) else outputs
    assert np.allclose(distribution.mean(), values, atol=1e-4)


@pytest.mark.parametrize("name", DISTRIBUTIONAL)
def test_identities_are_plain_predict(name: str) -> None:
    """To the last bit, with noise and draws, too."""
    model = spread_out(name)
    obs = observations(model)
    for deterministic in (True, False):
        th.manual_seed(3)
        expected, _ = model.policy.predict(obs, deterministic=deterministic)
        for risk in IDENTITIES:
            model.risk, model.exploration_rate = risk, 0.0
            th.manual_seed(3)
            assert np.array_equal(model.predict(obs, deterministic=deterministic)[0], expected), risk


@pytest.mark.parametrize("risk", RISKS)
@pytest.mark.parametrize("name", ["C51", "Rainbow", "QRDQN"])
def test_actions_maximise_the_measure_of_the_distribution(name: str, risk: str) -> None:
    model = spread_out(name, risk=risk)
    obs = observations(model)
    chosen = model.predict(obs, deterministic=True)[0]
    assert np.array_equal(chosen, model.predict_distribution(obs).risk(risk).argmax(axis=1))
    assert not np.array_equal(chosen, model.policy.predict(obs, deterministic=True)[0]), "else this test could not fail"


@pytest.mark.parametrize("risk", RISKS)
def test_iqn_acts_by_quantiles_at_distorted_fractions(risk: str) -> None:
    model = spread_out("IQN", risk=risk)
    obs = th.tensor(observations(model))
    taus = model.risk((th.arange(4) + 0.5) / 4).expand(len(obs), -1)
    with th.no_grad():
        values = model.q_net.quantiles(model.q_net.encode(obs), taus).mean(dim=1).numpy()
    assert np.array_equal(model.predict(obs.numpy(), deterministic=True)[0], values.argmax(axis=1))
    model.exploration_rate = 0.0
    drawn = [model.predict(obs.numpy())[0] for _ in range(2)]
    assert not np.array_equal(*drawn), "fractions are drawn afresh"


@pytest.mark.parametrize("name", DISTRIBUTIONAL)
def test_shapes_and_exploration_with_risk(name: str) -> None:
    model = spread_out(name, risk="cvar:0.25")
    obs = observations(model, 40)
    for deterministic in (True, False):
        actions, state = model.predict(obs, deterministic=deterministic)
        action, _ = model.predict(obs[0], deterministic=deterministic)
        assert actions.shape == (40,) and action.shape == () and state is None
    greedy = model.predict(obs, deterministic=True)[0]
    model.exploration_rate = 1.0
    assert not np.array_equal(model.predict(obs)[0], greedy)


def test_evaluate_policy_acts_by_the_risk() -> None:
    model = spread_out("QRDQN")
    seen: list[np.ndarray] = []
    for risk in ("mean", "cvar:0.1"):
        model.risk = risk
        actions: list[int] = []
        evaluate_policy(
            model, VecMonitor(vec_env()), 20, callback=lambda variables, _, to=actions: to.append(int(variables["actions"][0]))
        )
        seen.append(np.array(actions))
    assert len(seen[0]) == len(seen[1]) and not np.array_equal(*seen)


# Learning


@pytest.mark.parametrize("name", DISTRIBUTIONAL)
def test_learns_with_risk(name: str) -> None:
    model = make(DISTRIBUTIONAL[name], risk="cpw", bootstrap_risk="norm")
    before = snapshot(model)
    model.learn(60)
    assert any(not th.equal(before[key], value) for key, value in snapshot(model).items())
    assert all(value.isfinite().all() for value in model.policy.state_dict().values())


def learnt(name: str, **kwargs: Any) -> dict[str, th.Tensor]:
    """The environment's transitions do not depend on actions, which are all random here: only targets can differ."""
    exploring = dict(exploration_initial_eps=1.0, exploration_final_eps=1.0, learning_starts=60)
    model = make(DISTRIBUTIONAL[name], **{**exploring, **kwargs})
    model.learn(100)
    return snapshot(model)


@pytest.mark.parametrize("name", ["C51", "IQN", "QRDQN"])
def test_bootstrapping_is_a_choice_of_its_own(name: str) -> None:
    mean = learnt(name)
    assert_same_parameters(mean, learnt(name, risk="cvar:0.1", bootstrap_risk="mean"))
    follows = learnt(name, risk="cvar:0.1")
    assert_same_parameters(follows, learnt(name, bootstrap_risk="cvar:0.1"))
    assert any(not th.equal(mean[key], follows[key]) for key in mean)


def next_distributions(model: Any, obs: th.Tensor) -> ValueDistribution:
    """:return: of the target network"""
    with th.no_grad():
        if isinstance(model, QRDQN):
            quantiles = model.q_net_target(obs).mT.numpy()
            return ValueDistribution(quantiles, np.full_like(quantiles, 1 / quantiles.shape[-1]))
        return ValueDistribution(*(part.numpy() for part in model.q_net_target.distribution(obs)))


@pytest.mark.parametrize("name", ["C51", "QRDQN"])
def test_targets_take_the_action_that_maximises_the_measure(name: str) -> None:
    """The loss with a measure is the loss with the mean of a target network that has only these actions to choose from."""
    model, batch = spread_out(name, bootstrap_risk="cvar:0.2"), hand_made_batch(dones=th.zeros(B, 1))
    assert model.double_q is False
    distribution = next_distributions(model, batch.next_observations)
    chosen, by_mean = distribution.cvar(0.2).argmax(axis=1), distribution.mean().argmax(axis=1)
    assert not np.array_equal(chosen, by_mean), "else this test could not fail"
    original = loss_of(model, batch).losses
    model.bootstrap_risk = OnlyThese(chosen)
    assert th.allclose(loss_of(model, batch).losses, original)
    model.bootstrap_risk = OnlyThese(by_mean)
    assert not th.allclose(loss_of(model, batch).losses, original)


class OnlyThese(Distortion):
    """
    A measure that is greatest for given actions.

    :param actions: shape [B]
    """

    is_identity = False

    def __init__(self, actions: np.ndarray) -> None:
        self.actions = actions

    def __call__(self, taus: th.Tensor) -> th.Tensor:
        return taus

    def inverse(self, fractions: th.Tensor) -> th.Tensor:
        return fractions

    def expectation(self, values: th.Tensor, probs: th.Tensor) -> th.Tensor:
        return th.nn.functional.one_hot(th.tensor(self.actions), 3).float()


@pytest.mark.parametrize("double_q", [False, True])
def test_targets_of_iqn_choose_at_distorted_fractions(double_q: bool) -> None:
    """With all fractions drawn at 0.1, the action with the greatest quantile there is chosen."""
    model, batch = spread_out("IQN", double_q=double_q, bootstrap_risk=At(0.1)), hand_made_batch()
    bootstrap = th.ones_like(batch.rewards)
    th.manual_seed(2)
    targets = model.targets(batch, bootstrap)
    th.manual_seed(2)
    with th.no_grad():
        fixed = th.full((len(batch.rewards), 1), 0.1)
        choosing = model.q_net if double_q else model.q_net_target
        selecting = choosing.quantiles(choosing.encode(batch.next_observations), fixed).squeeze(1)
        taus = th.rand(len(fixed), 5)
        quantiles = model.q_net_target.quantiles(model.q_net_target.encode(batch.next_observations), taus)
    assert th.allclose(targets, batch.rewards + gather_actions(quantiles, selecting.argmax(dim=1)), atol=1e-5)


class At(Distortion):
    """
    All fractions at one place.

    :param tau: the place
    """

    is_identity = False

    def __init__(self, tau: float) -> None:
        self.tau = tau

    def __call__(self, taus: th.Tensor) -> th.Tensor:
        return th.full_like(taus, self.tau)

    def inverse(self, fractions: th.Tensor) -> th.Tensor:
        return (fractions >= self.tau).float()

    def sample(self, *shape: int, device: th.device | str | None = None) -> th.Tensor:
        return th.full(shape, self.tau, device=device)


# Saving and loading


@pytest.mark.parametrize("name", ALGORITHMS)
def test_risk_is_saved_and_changed_when_loading(name: str, tmp_path: Path) -> None:
    model = spread_out(name, risk="cvar:0.25", bootstrap_risk=MEAN)
    obs = observations(model)
    model.save(tmp_path / "model")
    loaded = type(model).load(tmp_path / "model")
    assert loaded.risk == CVaR(0.25) and loaded.bootstrap_risk == MEAN
    assert np.array_equal(loaded.predict(obs, deterministic=True)[0], model.predict(obs, deterministic=True)[0])
    changed = type(model).load(tmp_path / "model", risk="norm:2", bootstrap_risk=None)
    assert changed.risk == changed.target_risk == Norm(2) and changed.bootstrap_risk is None
    model.risk = "norm:2"
    assert np.array_equal(changed.predict(obs, deterministic=True)[0], model.predict(obs, deterministic=True)[0])
    assert copy.deepcopy(model).risk == Norm(2)
    with pytest.raises(ValueError, match="risk='cvar' has no level"):
        type(model).load(tmp_path / "model", risk="cvar")


@pytest.mark.parametrize("name", ALGORITHMS)
def test_models_that_were_saved_without_risk(name: str, tmp_path: Path) -> None:
    model = make(ALGORITHMS[name])
    model.save(tmp_path / "model.zip")
    data, params, variables = load_from_zip_file(tmp_path / "model.zip")
    del data["risk"], data["bootstrap_risk"]  # as before there was any
    save_to_zip_file(tmp_path / "old.zip", data, params, variables)
    loaded = type(model).load(tmp_path / "old.zip")
    assert loaded.risk == MEAN and loaded.bootstrap_risk is None
    loaded.predict(observations(model), deterministic=True)


def test_models_of_sb3_contrib(tmp_path: Path) -> None:
    theirs = sb3_contrib.QRDQN("MlpPolicy", gym.make("CartPole-v1"), buffer_size=10, seed=0, device="cpu")
    theirs.save(tmp_path / "theirs")
    ours = QRDQN.load(tmp_path / "theirs", risk="cvar:0.1")
    obs = observations(ours, 50)
    assert np.array_equal(ours.predict(obs, deterministic=True)[0], ours.predict_distribution(obs).cvar(0.1).argmax(axis=1))


# Mistakes


def test_no_distribution() -> None:
    model = make(SETTINGS["DQN"])
    says = "policy_kwargs has distributional=False.*use distributional=True"
    with pytest.raises(ValueError, match=says):
        model.predict_distribution(observations(model))
    model.risk = "cvar:0.5"
    with pytest.raises(ValueError, match=says):
        model.predict(observations(model), deterministic=True)
    for name in ("risk", "bootstrap_risk"):
        with pytest.raises(ValueError, match=f"{name}=cvar:0.5 needs a distribution.*distributional=True"):
            make(SETTINGS["DQN"], **{name: "cvar:0.5"})


@pytest.mark.parametrize(
    "make_mistake",
    [
        lambda: make(IQN, risk="averse"),
        lambda: make(Rainbow, bootstrap_risk="averse"),
        lambda: setattr(make(QRDQN), "risk", "averse"),
    ],
)
def test_unknown_risk(make_mistake: Callable[[], Any]) -> None:
    with pytest.raises(ValueError, match="risk='averse' is unknown: use one of mean"):
        make_mistake()


def test_risk_cannot_be_none() -> None:
    with pytest.raises(ValueError, match="risk=None"):
        make(Setting(IQN, {}, {}), risk=None)
