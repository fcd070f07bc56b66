"""Every algorithm and switch setting runs, learns, and repeats itself, on every kind of observation and environment."""

import itertools
import math
import multiprocessing
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch as th
from stable_baselines3.common.vec_env import SubprocVecEnv, VecEnv, VecFrameStack, VecNormalize, VecTransposeImage

from sb3_distrl import IQN, Rainbow
from tests.common.envs import KINDS, make_env, vec_env
from tests.common.settings import (
    ALGORITHMS,
    SETTINGS,
    Setting,
    assert_same_parameters,
    expected_updates,
    make,
    record,
    snapshot,
)

ON_OFF = (False, True)
# Others import everything once more in each process
START_METHOD = "fork" if "fork" in multiprocessing.get_all_start_methods() else None


def check_learning(model: Any, total: int = 120) -> dict[str, Any]:
    """
    Let a model learn, and see that it did.

    :param model: with the settings of ``SMALL``
    :param total: environment steps
    :return: the last line of its log
    """
    before = snapshot(model)
    recorder = record(model)
    model.learn(total)
    model.dump_logs()
    after = snapshot(model)
    assert model._n_updates == expected_updates(total, model.n_envs) > 5
    unchanged = [name for name in before if th.equal(before[name], after[name])]
    assert not unchanged, "these parameters did not change, in the online or in the target network"
    assert all(value.isfinite().all() for value in after.values())
    losses = [line["train/loss"] for line in recorder.lines if "train/loss" in line]
    assert losses and all(math.isfinite(loss) for loss in losses)
    return recorder.lines[-1]


def check_predictions(model: Any) -> None:
    """See that actions are what and where they should be, for one observation and for several."""
    obs = model.env.reset()
    n_actions = model.action_space.n
    for deterministic in ON_OFF:
        actions, state = model.predict(obs, deterministic=deterministic)
        assert actions.shape == (model.n_envs,) and state is None
        assert all(model.action_space.contains(action) for action in actions)
        one = {key: value[0] for key, value in obs.items()} if isinstance(obs, dict) else obs[0]
        action, _ = model.predict(one, deterministic=deterministic)
        assert action.shape == () and 0 <= action < n_actions


@pytest.mark.parametrize("name", SETTINGS)
def test_setting_learns(name: str) -> None:
    """With several environments; all combinations, below, have one."""
    model = make(SETTINGS[name], vec_env(n_envs=4))
    check_learning(model, 112)
    check_predictions(model)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", ALGORITHMS)
def test_kinds_of_observations(name: str, kind: str) -> None:
    model = make(ALGORITHMS[name], vec_env(kind, n_envs=2), kind=kind)
    check_learning(model, 64)
    check_predictions(model)


@pytest.fixture(scope="module")
def subproc_env() -> Iterator[VecEnv]:
    env = SubprocVecEnv([make_env(env_id=i) for i in range(4)], start_method=START_METHOD)
    yield env
    env.close()


@pytest.mark.parametrize("n_envs", [1, 4])
@pytest.mark.parametrize("name", ALGORITHMS)
def test_environments_in_processes(name: str, n_envs: int, subproc_env: VecEnv) -> None:
    env = subproc_env if n_envs == 4 else SubprocVecEnv([make_env()], start_method=START_METHOD)
    model = make(ALGORITHMS[name], env)
    check_learning(model, 60 if n_envs == 1 else 112)
    check_predictions(model)
    if n_envs == 1:
        env.close()


@pytest.mark.parametrize("kind", ["box", "dict"])
@pytest.mark.parametrize("name", ALGORITHMS)
def test_vec_normalize(name: str, kind: str) -> None:
    env: VecEnv = vec_env(kind, n_envs=2)
    if kind == "dict":
        env = VecTransposeImage(env)  # SB3 would do so outside of VecNormalize, and then store images in the wrong shape
    keys = ["vector"] if kind == "dict" else None
    env = VecNormalize(env, norm_obs=True, norm_reward=True, norm_obs_keys=keys)
    # Normalised rewards are of the order of 1, and returns wider than the default support needs
    policy_kwargs = dict(v_min=-60.0, v_max=60.0) if name == "Rainbow" else {}
    model = make(ALGORITHMS[name], env, kind=kind, policy_kwargs=policy_kwargs)
    check_learning(model, 64)
    check_predictions(model)


@pytest.mark.parametrize("name", ALGORITHMS)
def test_frame_stack(name: str) -> None:
    env = VecFrameStack(vec_env("image", n_envs=2), n_stack=3)
    model = make(ALGORITHMS[name], env, kind="image")
    check_learning(model, 64)
    check_predictions(model)
    assert model.observation_space.shape == (3, 36, 36)
    # The second-newest frame of the next observation is the newest frame of the observation
    batch = model.replay_buffer.sample(50)
    one_step = (batch.discounts.squeeze(1) == np.float32(model.gamma)).numpy()
    assert one_step.any()
    assert th.equal(batch.next_observations[one_step][:, 1], batch.observations[one_step][:, 2])


def combinations(n_switches: int) -> list[Any]:
    """:return: all of double_q, prioritized, n_steps and further switches; those that are not slow have all pairs of values"""
    found = []
    for double_q, prioritized, multi_step, *others in itertools.product(ON_OFF, repeat=n_switches):
        pairs = [double_q ^ prioritized, prioritized ^ multi_step, double_q ^ multi_step]
        marks = [] if others == pairs[: len(others)] else [pytest.mark.slow]
        found.append(pytest.param(double_q, prioritized, 3 if multi_step else 1, *others, marks=marks))
    return found


@pytest.mark.parametrize(("double_q", "prioritized", "n_steps", "dueling", "noisy", "distributional"), combinations(6))
def test_all_combinations_of_rainbow(
    double_q: bool, prioritized: bool, n_steps: int, dueling: bool, noisy: bool, distributional: bool
) -> None:
    setting = Setting(
        Rainbow,
        dict(double_q=double_q, prioritized=prioritized, n_steps=n_steps),
        dict(dueling=dueling, noisy=noisy, distributional=distributional),
    )
    model = make(setting)
    line = check_learning(model, 61)
    assert any("sigma" in name for name in snapshot(model)) == noisy
    assert any("value_stream" in name for name in snapshot(model)) == dueling
    assert ("train/clipped_mass" in line) == distributional
    assert ("train/weight_mean" in line) == ("train/beta" in line) == prioritized
    assert model.replay_buffer.n_steps == n_steps
    assert (model.exploration_initial_eps, model.exploration_final_eps) == ((0.0, 0.0) if noisy else (1.0, 0.01))


@pytest.mark.parametrize(("double_q", "prioritized", "n_steps", "dueling", "noisy"), combinations(5))
def test_all_combinations_of_iqn(double_q: bool, prioritized: bool, n_steps: int, dueling: bool, noisy: bool) -> None:
    setting = Setting(
        IQN, dict(double_q=double_q, prioritized=prioritized, n_steps=n_steps), dict(dueling=dueling, noisy=noisy)
    )
    model = make(setting)
    line = check_learning(model, 61)
    assert any("sigma" in name for name in snapshot(model)) == noisy
    assert any("value_stream" in name for name in snapshot(model)) == dueling
    assert ("train/weight_mean" in line) == ("train/beta" in line) == prioritized
    assert model.replay_buffer.n_steps == n_steps


QUICK = ("Rainbow", "IQN with all", "QRDQN with all")


@pytest.mark.parametrize("name", [name if name in QUICK else pytest.param(name, marks=pytest.mark.slow) for name in SETTINGS])
def test_one_seed_gives_one_result(name: str) -> None:
    runs = []
    for _ in range(2):
        model = make(SETTINGS[name], vec_env(n_envs=2), seed=3, exploration_fraction=0.5)
        model.learn(64)
        runs.append((snapshot(model), model.replay_buffer.actions.copy()))
    assert_same_parameters(runs[0][0], runs[1][0])
    assert np.array_equal(runs[0][1], runs[1][1])
    other = make(SETTINGS[name], vec_env(n_envs=2), seed=4, exploration_fraction=0.5)
    other.learn(64)
    assert any(not th.equal(value, snapshot(other)[name]) for name, value in runs[0][0].items())


@pytest.mark.parametrize("name", ALGORITHMS)
def test_one_seed_gives_one_result_with_images(name: str) -> None:
    runs = []
    for _ in range(2):
        model = make(ALGORITHMS[name], vec_env("image"), kind="image", seed=3)
        model.learn(40)
        runs.append(snapshot(model))
    assert_same_parameters(*runs)
