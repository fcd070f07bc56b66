"""The algorithms of the page "Write your own algorithm" are complete: they learn, resume, take risk and run with actors."""

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch as th
from stable_baselines3.common.evaluation import evaluate_policy

from sb3_distrl.common.gradient_steps import evaluate
from sb3_distrl.distributed import ApeX
from sb3_distrl.functional import gather_actions
from tests.common.envs import vec_env
from tests.common.settings import assert_same_parameters, snapshot

EXAMPLES = Path(__file__).parent.parent / "docs" / "examples"
sys.path.append(str(EXAMPLES))

from fqf import FQF  # noqa: E402
from munchausen_iqn import MunchausenIQN  # noqa: E402

ALGORITHMS = [MunchausenIQN, FQF]
SETTINGS: dict[str, Any] = dict(
    learning_starts=40,
    batch_size=16,
    train_freq=4,
    target_update_interval=40,
    buffer_size=2000,
    prioritized=True,
    n_steps=3,
    seed=0,
    device="cpu",
    policy_kwargs=dict(net_arch=[16, 16], n_quantiles=8, n_target_quantiles=8, n_eval_quantiles=8),
)


class ApeXMunchausenIQN(ApeX, MunchausenIQN):
    pass


class ApeXFQF(ApeX, FQF):
    pass


@pytest.mark.parametrize(("example", "most"), [("munchausen_iqn.py", 25), ("fqf.py", 60)])
def test_they_are_short(example: str, most: int) -> None:
    lines = [line for line in (EXAMPLES / example).read_text().splitlines() if line.strip()]
    assert len(lines) <= most


def optimizers(model: Any) -> list[th.Tensor]:
    """:return: the state of all optimizers"""
    policy = vars(model.policy)
    states = [policy[name].state.values() for name in ("optimizer", "fraction_optimizer") if name in policy]
    return [value for state in states for moments in state for value in moments.values()]


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_all_layers_learn_and_training_resumes_exactly(algorithm: Any, tmp_path: Path) -> None:
    model = algorithm("MlpPolicy", vec_env(), **SETTINGS)
    before = snapshot(model)
    model.learn(120)
    assert not [name for name, value in before.items() if th.equal(value, snapshot(model)[name]) and "target" not in name]
    model.save_checkpoint(tmp_path / "model")
    loaded = [algorithm.load_checkpoint(tmp_path / "model", env=vec_env(first_id=1), device="cpu") for _ in range(2)]
    for each in loaded:
        each.learn(60, reset_num_timesteps=False)
    assert_same_parameters(*(snapshot(each) for each in loaded))
    assert all(th.equal(*pair) for pair in zip(*(optimizers(each) for each in loaded), strict=True))
    assert loaded[0]._n_updates == model._n_updates + 15


def test_fractions_have_an_optimizer_of_their_own() -> None:
    """At RMSprop's tiny step, and without moments in Adam; their gradients do not count in clipping."""
    model = FQF("MlpPolicy", vec_env(), **SETTINGS, max_grad_norm=1e-3).learn(60)
    network, policy = model.q_net, model.policy
    proposal = list(network.proposal.parameters())
    both = policy.fraction_optimizer, policy.optimizer
    theirs, own = ({id(p) for group in each.param_groups for p in group["params"]} for each in both)
    assert theirs == {id(p) for p in proposal} and not theirs & own
    assert theirs | own == {id(p) for p in network.parameters()}
    before = [p.detach().clone() for p in proposal]
    model.train(1, batch_size=8)
    moved = max(float((p - q).abs().max()) for p, q in zip(proposal, before, strict=True))
    assert 0 < moved < 1e-7
    for parameter in proposal:
        parameter.grad = th.full_like(parameter, 1e9)  # of the step before
    model._metrics.count = 0
    model.train(1, batch_size=8)
    assert float(model._metrics.totals["grad_norm"]) < 1e6


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_in_bfloat16(algorithm: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    model = algorithm("MlpPolicy", vec_env(), **SETTINGS, precision="bf16")
    seen: set[Any] = set()
    linear = th.nn.functional.linear
    monkeypatch.setattr(th.nn.functional, "linear", lambda *args: seen.add(linear(*args).dtype) or linear(*args))
    model.learn(40)
    seen.clear()
    loss = evaluate(model, model.sample(8))
    assert seen == {th.bfloat16} and loss.losses.dtype == th.float32


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_acting(algorithm: Any) -> None:
    model = algorithm("MlpPolicy", "CartPole-v1", **SETTINGS).learn(60)
    obs = np.random.default_rng(0).normal(size=(5, 4)).astype(np.float32)
    values = model.q_values(obs)
    assert np.array_equal(model.predict(obs, deterministic=True)[0], values.argmax(axis=1))
    np.testing.assert_allclose(model.predict_distribution(obs).mean(), values, rtol=1e-5)
    assert not np.array_equal(model.q_values(obs, risk="cvar:0.2"), values)
    evaluate_policy(model, model.get_env(), n_eval_episodes=1)


@pytest.mark.parametrize("cls", [ApeXMunchausenIQN, ApeXFQF])
def test_with_actors(cls: Any) -> None:
    kwargs = {**SETTINGS, "learning_starts": 100}
    del kwargs["train_freq"]
    model = cls("MlpPolicy", "CartPole-v1", n_actors=2, block_steps=20, collector="local", replay_ratio=0.25, **kwargs)
    model.learn(200)
    assert model._n_updates == 25
    assert len(np.unique(model.replay_buffer.tree[np.arange(200)])) > 20, "actors send priorities of their own"


@pytest.mark.slow
def test_fractions_minimise_the_distance() -> None:
    """The fraction loss's gradient is that of the 1-Wasserstein distance (FQF, proposition 1), by finite differences."""
    model = FQF("MlpPolicy", "CartPole-v1", **{**SETTINGS, "prioritized": False}).learn(60)
    for network in (model.q_net, model.q_net_target):
        network.double()
    network, batch = model.q_net, model.sample(4)
    batch = batch._replace(observations=batch.observations.double(), next_observations=batch.next_observations.double())
    loss = evaluate(model, batch).extra["fraction_optimizer"]
    (gradient,) = th.autograd.grad(loss, network.proposal.bias)

    def distance() -> float:
        """The integral of |F^-1(tau) - F^-1(midpoint)|, where the paper takes quantiles to ascend."""
        features, actions = network.encode(batch.observations), batch.actions.long().squeeze(1)
        taus, midpoints, _ = network.fractions(features)
        grid = ((th.arange(200_000, dtype=th.float64) + 0.5) / 200_000).expand(4, -1).contiguous()
        exact = gather_actions(network.quantiles(features, grid).double(), actions)  # [B, G]
        steps = gather_actions(network.quantiles(features, midpoints).double(), actions)  # [B, N]
        at = th.searchsorted(taus[:, 1:].contiguous(), grid).clamp(max=steps.shape[1] - 1)
        return float(((exact - steps.gather(1, at)) * th.where(grid > midpoints.gather(1, at), 1.0, -1.0)).mean())

    bias, step = network.proposal.bias, 0.005
    for i in range(4):
        with th.no_grad():
            bias[i] += step
            above = distance()
            bias[i] -= 2 * step
            below = distance()
            bias[i] += step
        assert (above - below) / (2 * step) == pytest.approx(
            float(gradient[i]), rel=0.1, abs=0.03 * float(gradient.abs().max())
        )


def test_the_target_of_munchausen_iqn() -> None:
    """By a loop over actions, where values do not depend on the fractions drawn."""
    model = MunchausenIQN("MlpPolicy", "CartPole-v1", **SETTINGS).learn(60)
    with th.no_grad():
        model.q_net_target.embedding.linear.weight.zero_()
        model.q_net_target.embedding.linear.bias.fill_(1.0)
    batch = model.sample(8)
    bootstrap = th.full((8, 1), 0.9)
    with th.no_grad():
        targets = model.targets(batch, bootstrap)
        obs, next_obs = batch.observations, batch.next_observations
        values, next_values = (model.q_net_target.acting_values(each).double() for each in (obs, next_obs))
    for b in range(8):
        pi, next_pi = ((row[b] / 0.03).softmax(0) for row in (values, next_values))
        action = int(batch.actions[b])
        bonus = 0.9 * max(-1.0, 0.03 * float(th.log(pi[action])))
        soft = sum(float(p * (q - 0.03 * th.log(p))) for p, q in zip(next_pi, next_values[b], strict=True) if p > 0)
        expected = float(batch.rewards[b]) + bonus + 0.9 * soft
        assert targets[b].tolist() == pytest.approx([expected] * 8, rel=1e-4)
