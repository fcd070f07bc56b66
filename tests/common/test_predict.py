"""What ``predict`` and ``predict_distribution`` take: all that SB3's do, with every way to act."""

from typing import Any

import numpy as np
import pytest
import torch as th
from stable_baselines3 import DQN

from sb3_distrl import IQN, QRDQN, Rainbow
from sb3_distrl.common.algorithm import ValueAlgorithm
from tests.common.envs import CountingEnv, vec_env
from tests.common.settings import make

ALGORITHMS = [Rainbow, IQN, QRDQN]
WAYS = ["deterministic", "greedy", "random", "by risk"]


def acting(algorithm: type[ValueAlgorithm], way: str, kind: str = "box") -> tuple[Any, dict[str, Any]]:
    """:return: a model, and arguments of its ``predict``"""
    model = make(algorithm, kind=kind)
    model.exploration_rate = float(way == "random")
    if way == "by risk":
        model.risk = "cvar:0.5"
    return model, dict(deterministic=way == "deterministic")


def seeded(model: Any, obs: Any, **kwargs: Any) -> Any:
    model.action_space.seed(1)
    np.random.seed(1)
    th.manual_seed(1)
    return model.predict(obs, **kwargs)[0]


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_what_reset_of_gymnasium_returns(algorithm: type[ValueAlgorithm], way: str) -> None:
    model, kwargs = acting(algorithm, way)
    env = CountingEnv()
    with pytest.raises(ValueError, match="You have passed a tuple to the predict") as theirs:
        DQN("MlpPolicy", env, buffer_size=10).predict(env.reset(), deterministic=True)
    for call in (lambda: model.predict(env.reset(), **kwargs), lambda: model.predict_distribution(env.reset())):
        with pytest.raises(ValueError, match=r"use `obs, info = env.reset\(\)`, and pass obs") as ours:
            call()
        assert str(ours.value).startswith(str(theirs.value).partition(". ")[0])
    env = CountingEnv("dict")
    model, kwargs = acting(algorithm, way, "dict")
    with pytest.raises(ValueError, match="You have passed a tuple to the predict"):
        model.predict(env.reset(), **kwargs)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_lists(algorithm: type[ValueAlgorithm], way: str) -> None:
    model, kwargs = acting(algorithm, way)
    for obs in (np.array([1.0, 2.0, 3.0], np.float32), np.array([[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]], np.float32)):
        action = seeded(model, obs.tolist(), **kwargs)
        assert np.array_equal(action, seeded(model, obs, **kwargs)) and action.shape == obs.shape[:-1]
        th.manual_seed(1)
        of_list = model.predict_distribution(obs.tolist())
        th.manual_seed(1)
        assert np.array_equal(of_list.values, model.predict_distribution(obs).values)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_numbers(algorithm: type[ValueAlgorithm], way: str) -> None:
    model, kwargs = acting(algorithm, way, "discrete")
    for obs in (3, np.int64(3), np.array(3), [3], [3, 4]):
        assert seeded(model, obs, **kwargs).shape == np.shape(obs)


@pytest.mark.parametrize("way", WAYS)
def test_lists_in_a_dict(way: str) -> None:
    model, kwargs = acting(QRDQN, way, "dict")
    obs = vec_env("dict", n_envs=2).reset()
    lists = {key: part.tolist() for key, part in obs.items()}
    assert np.array_equal(seeded(model, lists, **kwargs), seeded(model, obs, **kwargs))


@pytest.mark.parametrize("way", WAYS)
def test_a_wrong_shape_is_still_told(way: str) -> None:
    model, kwargs = acting(QRDQN, way)
    with pytest.raises(ValueError, match="Unexpected observation shape"):
        model.predict([1.0, 2.0], **kwargs)
