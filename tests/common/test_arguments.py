"""Arguments that are taken: numbers of other types, zeros as in SB3."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch as th
from stable_baselines3 import DQN

from sb3_distrl import IQN, QRDQN, Rainbow
from sb3_distrl.common.algorithm import ValueAlgorithm
from sb3_distrl.distributed import ApeXRainbow
from tests.common.envs import CountingEnv, vec_env
from tests.common.settings import SMALL, assert_same_parameters, make, record, snapshot

ALGORITHMS = [Rainbow, IQN, QRDQN]
FLOATS: dict[str, Any] = dict(
    n_steps=2.0,
    batch_size=np.float32(8),
    buffer_size=5e2,
    learning_starts=np.array(20.0),
    gradient_steps=th.tensor(2.0),
    target_update_interval=3e1,
    train_freq=4.0,
    seed=np.int64(0),
    gamma=np.array(0.99),
    learning_rate=np.float32(2**-10),
)
INTS: dict[str, Any] = dict(
    n_steps=2,
    batch_size=8,
    buffer_size=500,
    learning_starts=20,
    gradient_steps=2,
    target_update_interval=30,
    train_freq=4,
    seed=0,
    learning_rate=2**-10,
)
FLOAT_NETS: dict[type[ValueAlgorithm], dict[str, Any]] = {
    Rainbow: dict(net_arch=[16.0, np.int64(8)], n_atoms=11.0, v_min=np.float32(-10), v_max=np.array(10)),
    IQN: dict(net_arch=(16.0,), n_quantiles=7.0, n_target_quantiles=np.float64(5), n_eval_quantiles=4.0, n_cos=6.0),
    QRDQN: dict(net_arch=np.array([16.0]), n_quantiles=9.0),
}


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_whole_numbers_of_other_types_are_ints(algorithm: type[ValueAlgorithm], tmp_path: Path) -> None:
    floats = make(algorithm, policy_kwargs=FLOAT_NETS[algorithm], **FLOATS)
    for name in INTS.keys() - {"train_freq", "learning_rate"}:
        assert type(getattr(floats, name)) is int, name
    assert type(floats.train_freq.frequency) is int
    net = {name: np.array(value).astype(int).tolist() for name, value in FLOAT_NETS[algorithm].items()}
    floats.learn(60)
    ints = make(algorithm, policy_kwargs=net, **INTS)
    ints.learn(60)
    assert floats._n_updates == ints._n_updates > 10
    assert_same_parameters(snapshot(floats), snapshot(ints))

    ints.save(tmp_path / "model")
    loaded = algorithm.load(tmp_path / "model", env=vec_env(), batch_size=4.0, buffer_size=1e2, train_freq=(2.0, "step"))
    assert (loaded.batch_size, loaded.buffer_size, loaded.train_freq.frequency) == (4, 100, 2)
    n_updates = loaded._n_updates
    loaded.learn(40, reset_num_timesteps=False)
    assert loaded._n_updates == n_updates + 40


def test_episodes_of_other_types() -> None:
    model = make(QRDQN, train_freq=(1.0, "episode"))
    model.learn(60)
    assert type(model.train_freq.frequency) is int and model._n_updates > 0


def test_numbers_of_other_types_with_actors() -> None:
    counts = dict(n_actors=2.0, envs_per_actor=1.0, block_steps=5.0, weights_interval=5.0, tolerance=10.0, max_failures=3.0)
    kwargs = {**SMALL, **FLOATS, "gradient_steps": 4.0, "batch_size": 4.0}
    model = ApeXRainbow("MlpPolicy", CountingEnv, collector="local", policy_kwargs=dict(net_arch=[8]), **counts, **kwargs)
    for name, value in counts.items():
        assert type(getattr(model, name)) is int and getattr(model, name) == value
    assert model.replay_ratio == 1
    model.learn(60)
    assert model._n_updates > 0


def test_tau_0_leaves_the_target_network_alone() -> None:
    model = make(QRDQN, tau=0)
    before = {name: value for name, value in snapshot(model).items() if "target" in name}
    model.learn(60)
    after = snapshot(model)
    assert_same_parameters(before, {name: after[name] for name in before})
    assert any(not th.equal(value, after[name.replace("_target", "")]) for name, value in before.items())


@pytest.mark.parametrize("n_envs", [1, 3])
def test_target_update_interval_0_is_an_update_on_each_step(n_envs: int) -> None:
    model = make(QRDQN, vec_env(n_envs=n_envs), target_update_interval=0, train_freq=1, overlap=False)
    model.learn(60)
    model._on_step()
    assert model._n_updates > 0
    for one, other in zip(model.q_net.parameters(), model.q_net_target.parameters(), strict=True):
        assert th.equal(one, other)


@pytest.mark.parametrize("algorithm", [DQN, *ALGORITHMS])
def test_exploration_fraction_0_is_the_final_epsilon_from_the_first_step_on(algorithm: Any) -> None:
    kwargs: dict[str, Any] = dict(exploration_fraction=0.0, exploration_initial_eps=0.9, exploration_final_eps=0.25)
    model = algorithm("MlpPolicy", vec_env(), **{**SMALL, **kwargs})
    seen = []
    recorder = record(model)
    model.learn(30, callback=lambda local_variables, _: seen.append(model.exploration_rate) or True, log_interval=1)
    assert seen == [0.0] + [0.25] * (len(seen) - 1), "as in SB3, which sets it after the first step"
    assert recorder.lines[-1]["rollout/exploration_rate"] == 0.25


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_exploration_fraction_0_in_a_training_without_end(algorithm: type[ValueAlgorithm]) -> None:
    """One step of so many leaves the remaining progress at 1, where SB3's schedule would divide by 0."""
    model = make(algorithm, exploration_fraction=0, exploration_final_eps=0.25)
    model.learn(10**18, callback=lambda local_variables, _: model.num_timesteps < 10)
    assert model.exploration_rate == 0.25
