"""What is asked for after saving wins over what was saved; what is not is as it was."""

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch as th
from stable_baselines3.common.buffers import ReplayBuffer
from stable_baselines3.common.utils import set_random_seed

from sb3_distrl import QRDQN, Rainbow
from sb3_distrl.distributed import ApeXRainbow
from sb3_distrl.functional.risk import as_distortion
from tests.common.envs import vec_env
from tests.common.settings import ALGORITHMS, assert_same_parameters, make, snapshot
from tests.distributed.models import digest, make_model

STEPS = 40  # of each part
EXPLORING = dict(exploration_initial_eps=0.9, exploration_final_eps=0.9, exploration_fraction=1.0)


class Outcome(NamedTuple):
    """What going on came to."""

    actions: list[int]
    weights: dict[str, th.Tensor]

    def same(self, other: "Outcome") -> tuple[bool, bool]:
        """:return: whether the actions are, and the weights"""
        return self.actions == other.actions, all(th.equal(value, other.weights[key]) for key, value in self.weights.items())


def outcome(model: Any) -> Outcome:
    model.learn(STEPS, reset_num_timesteps=False)
    return Outcome(model.replay_buffer.actions[STEPS : 2 * STEPS].reshape(-1).tolist(), snapshot(model))


def load(cls: Any, folder: Path, **kwargs: Any) -> Any:
    model = cls.load(folder / "model", env=vec_env(), device="cpu", **kwargs)
    model.load_replay_buffer(folder / "buffer")
    return model


def with_seed(cls: Any, folder: Path, seed: int) -> Any:
    return load(cls, folder, seed=seed)


def with_custom_objects(cls: Any, folder: Path, seed: int) -> Any:
    return load(cls, folder, custom_objects=dict(seed=seed))


def checkpoint_with_seed(cls: Any, folder: Path, seed: int) -> Any:
    return cls.load_checkpoint(folder / "checkpoint", env=vec_env(), device="cpu", seed=seed)


def seeded_afterwards(cls: Any, folder: Path, seed: int) -> Any:
    model = load(cls, folder)
    model.set_random_seed(seed)
    return model


def generators_seeded_afterwards(cls: Any, folder: Path, seed: int) -> Any:
    model = load(cls, folder)
    set_random_seed(seed)
    return model


def seeded_saved_and_loaded(cls: Any, folder: Path, seed: int) -> Any:
    """The seed is asked for before the second file is saved, and nothing after."""
    checkpoint_with_seed(cls, folder, seed).save_checkpoint(folder / "again")
    return cls.load_checkpoint(folder / "again", env=vec_env(), device="cpu")


def generators_seeded_saved_and_loaded(cls: Any, folder: Path, seed: int) -> Any:
    model = load(cls, folder)
    set_random_seed(seed)
    model.save_checkpoint(folder / "again")
    return cls.load_checkpoint(folder / "again", env=vec_env(), device="cpu")


WAYS: list[Callable[[Any, Path, int], Any]] = [
    with_seed,
    with_custom_objects,
    checkpoint_with_seed,
    seeded_afterwards,
    generators_seeded_afterwards,
    seeded_saved_and_loaded,
    generators_seeded_saved_and_loaded,
]


def save(setting: Any, folder: Path, **kwargs: Any) -> Any:
    model = make(setting, **EXPLORING, **kwargs)
    model.learn(STEPS)
    model.save(folder / "model")
    model.save_replay_buffer(folder / "buffer")
    model.save_checkpoint(folder / "checkpoint")
    return model


@pytest.mark.parametrize(
    ("name", "saved_seed", "ways"),
    [("Rainbow", 0, WAYS[:3]), ("IQN", None, WAYS[2:5]), ("QRDQN", 0, WAYS), ("QRDQN", None, WAYS)],
)
def test_a_seed_given_after_saving_wins(name: str, saved_seed: int | None, ways: list[Any], tmp_path: Path) -> None:
    cls = type(save(ALGORITHMS[name], tmp_path, seed=saved_seed))
    without_seed = outcome(load(cls, tmp_path))
    for way in ways:
        one, again, two = (outcome(way(cls, tmp_path, seed)) for seed in (1, 1, 2))
        assert one.same(again) == (True, True), way.__name__
        others = [(one, two), (one, without_seed), (two, without_seed)]
        assert [a.same(b) for a, b in others] == [(False, False)] * 3, way.__name__


@pytest.mark.parametrize("way", [with_seed, checkpoint_with_seed, seeded_afterwards, generators_seeded_afterwards])
def test_also_the_seed_that_was_saved(way: Any, tmp_path: Path) -> None:
    """It begins anew."""
    save(Rainbow, tmp_path, seed=1)
    one = outcome(way(Rainbow, tmp_path, 1))
    assert one.same(outcome(way(Rainbow, tmp_path, 1))) == (True, True)
    assert one.same(outcome(load(Rainbow, tmp_path))) == (False, False)


def test_the_action_space_may_be_seeded_on_its_own(tmp_path: Path) -> None:
    save(Rainbow, tmp_path)
    outcomes = []
    for seed in (1, 1, 2, None):
        model = load(Rainbow, tmp_path)
        if seed is not None:
            model.action_space.seed(seed)
        outcomes.append(outcome(model))
    one, again, two, without = outcomes
    assert one.same(again) == (True, True)
    assert not one.same(two)[0] and not one.same(without)[0]


@pytest.mark.parametrize("seed", [{}, dict(seed=None)])
def test_without_a_seed_it_goes_on_whatever_was_drawn_meanwhile(seed: dict[str, None], tmp_path: Path) -> None:
    """``seed=None``, such as that of a command line without one, asks for nothing."""
    model = save(Rainbow, tmp_path)
    model.set_env(vec_env())
    expected = outcome(model)
    loaded = load(Rainbow, tmp_path, **seed)
    load(Rainbow, tmp_path).predict(vec_env().reset())
    random.random(), np.random.rand(1000), th.rand(1000), loaded.action_space.sample()
    assert outcome(loaded).same(expected) == (True, True)


def test_seeds_reach_actors(tmp_path: Path) -> None:
    cls: Any = ApeXRainbow  # noise and priorities are drawn, too
    make_model(cls).learn(200).save_checkpoint(tmp_path / "checkpoint")

    def going_on(given: int | None, afterwards: int | None) -> str:
        kwargs = {} if given is None else dict(seed=given)
        model = cls.load_checkpoint(tmp_path / "checkpoint", env="CartPole-v1", device="cpu", **kwargs)
        if afterwards is not None:
            model.set_random_seed(afterwards)
        model.learn(100, reset_num_timesteps=False)
        return digest(model) + str(model.replay_buffer.observations[200:260].tobytes())

    without_seed = going_on(None, None)
    assert going_on(None, None) == without_seed
    for seeds in ([(1, None), (2, None)], [(None, 1), (None, 2)]):
        one, two = (going_on(*each) for each in seeds)
        assert going_on(*seeds[0]) == one
        assert len({one, two, without_seed}) == 3


# Other arguments


@pytest.mark.parametrize("name", ALGORITHMS)
def test_other_arguments_given_to_load_count_from_the_first_action(name: str, tmp_path: Path) -> None:
    cls = type(save(ALGORITHMS[name], tmp_path))
    greedy = dict(exploration_initial_eps=0.0, exploration_final_eps=0.0, learning_rate=0.0, risk="cvar:0.5")
    for model in (
        load(cls, tmp_path, **greedy),
        cls.load_checkpoint(tmp_path / "checkpoint", env=vec_env(), device="cpu", **greedy),
    ):
        assert model.exploration_rate == 0.0
        assert model.risk == as_distortion("cvar:0.5", "risk")
        before = {key: value for key, value in snapshot(model).items() if key.startswith("q_net.")}
        model.learn(STEPS, reset_num_timesteps=False)
        after = snapshot(model)
        assert_same_parameters(before, {key: after[key] for key in before})
        assert model.exploration_rate == 0.0
    assert load(cls, tmp_path).exploration_rate == 0.9, "saved, where nothing else is asked for"


@pytest.mark.parametrize(
    ("name", "value", "saved"),
    [
        ("buffer_size", 400, 500),
        ("optimize_memory_usage", True, False),
        ("replay_buffer_class", ReplayBuffer, "PrioritizedReplayBuffer"),
        ("replay_buffer_kwargs", dict(priority_eps=0.5), 1e-6),
    ],
)
def test_arguments_that_a_checkpoints_replay_buffer_does_not_follow(name: str, value: Any, saved: Any, tmp_path: Path) -> None:
    save(QRDQN, tmp_path)
    shown = {"replay_buffer_class": "ReplayBuffer", "replay_buffer_kwargs": 0.5}.get(name, value)
    named = "priority_eps" if name == "replay_buffer_kwargs" else name
    message = (
        rf"{named}={shown} differs from the replay buffer's {saved} in path=.*checkpoint\.zip: leave it out, or use load()"
    )
    with pytest.raises(ValueError, match=message):
        QRDQN.load_checkpoint(tmp_path / "checkpoint", env=vec_env(), **{name: value})
    same = {"buffer_size": 500, "optimize_memory_usage": False, "replay_buffer_class": None, "replay_buffer_kwargs": {}}[name]
    QRDQN.load_checkpoint(tmp_path / "checkpoint", env=vec_env(), **{name: same})


def test_another_model_between_loading_and_learning_changes_nothing(tmp_path: Path) -> None:
    """It is seeded as it is made or loaded, which is nobody's wish for this one."""
    model = make(Rainbow, vec_env(), seed=1)
    model.learn(STEPS)
    model.save_checkpoint(tmp_path / "checkpoint")
    alone = outcome(Rainbow.load_checkpoint(tmp_path / "checkpoint", env=vec_env(), device="cpu"))
    model = Rainbow.load_checkpoint(tmp_path / "checkpoint", env=vec_env(), device="cpu")
    make(QRDQN, vec_env(), seed=5)
    other = Rainbow.load_checkpoint(tmp_path / "checkpoint", env=vec_env(), device="cpu")
    other.learn(STEPS // 2, reset_num_timesteps=False)
    assert alone.same(outcome(model)) == (True, True)


def test_a_rate_of_exploration_given_to_load_counts(tmp_path: Path) -> None:
    model = make(QRDQN, vec_env(), **EXPLORING)
    model.learn(STEPS)
    model.save(tmp_path / "model")
    assert QRDQN.load(tmp_path / "model", exploration_rate=0.37).exploration_rate == 0.37
