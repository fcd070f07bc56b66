"""Trap 6: gradient steps per transition; SB3's own counting stays what it is."""

from typing import Any

import pytest
from stable_baselines3 import DQN

from sb3_distrl import IQN, QRDQN, Rainbow
from sb3_distrl.common.algorithm import ValueAlgorithm
from tests.common.envs import vec_env
from tests.common.settings import SMALL, make

TOTAL, LEARNING_STARTS = 96, 24  # multiples of 4 * 8 and 3, and of 8 and 3


def count(algorithm: type[ValueAlgorithm], n_envs: int, **kwargs: Any) -> int:
    model = make(algorithm, vec_env(n_envs=n_envs), learning_starts=LEARNING_STARTS, batch_size=2, **kwargs)
    model.learn(TOTAL)
    assert model.num_timesteps == TOTAL
    return model._n_updates


@pytest.mark.parametrize("n_envs", [1, 3, 8])
@pytest.mark.parametrize("replay_ratio", [0.1, 0.25, 1, 2])
def test_replay_ratio_counts_transitions(replay_ratio: float, n_envs: int) -> None:
    due = int(replay_ratio * (TOTAL - LEARNING_STARTS) + 1e-6)
    for train_freq in (1, 4):
        assert count(QRDQN, n_envs, replay_ratio=replay_ratio, train_freq=train_freq) == due


@pytest.mark.parametrize("algorithm", [Rainbow, IQN])
def test_replay_ratio_of_other_algorithms(algorithm: type[ValueAlgorithm]) -> None:
    assert [count(algorithm, n_envs, replay_ratio=0.25) for n_envs in (1, 8)] == [18, 18]


def test_replay_ratio_steps_come_as_they_are_due() -> None:
    model = make(QRDQN, learning_starts=0, replay_ratio=0.3, train_freq=1)
    seen: list[int] = []
    model.learn(20, callback=lambda *_: seen.append(model._n_updates) is None)
    assert seen == [int(0.3 * step + 1e-6) for step in range(20)]


def test_replay_ratio_with_episodes() -> None:
    """Episodes have 5, 6, 7, 8 steps, and again; all steps of an episode are due at its end."""
    model = make(QRDQN, learning_starts=0, replay_ratio=1.0, train_freq=(1, "episode"))
    seen: list[int] = []
    model.learn(26, callback=lambda *_: seen.append(model._n_updates) is None)
    assert seen == [0] * 5 + [5] * 6 + [11] * 7 + [18] * 8
    assert model._n_updates == 26


@pytest.mark.parametrize(
    ("train_freq", "gradient_steps", "n_envs", "updates"),
    [
        (4, 1, 1, 18),  # rollouts of 4 transitions, all but the first 6
        (4, 1, 8, 3),  # of 32, of which the first one ends past learning_starts
        (1, 1, 8, 9),
        (4, 3, 3, 18),
        (4, -1, 1, 72),
        (4, -1, 8, 96),
        ((2, "step"), 1, 1, 36),
        ((1, "episode"), 1, 1, None),
        ((2, "episode"), -1, 1, None),
        (4, 0, 1, 0),
    ],
)
def test_train_freq_and_gradient_steps_mean_what_they_do_in_sb3(
    train_freq: Any, gradient_steps: int, n_envs: int, updates: int | None
) -> None:
    arguments = {**SMALL, "learning_starts": LEARNING_STARTS, "batch_size": 2, "train_freq": train_freq}
    sb3 = DQN(
        "MlpPolicy", vec_env(n_envs=n_envs), gradient_steps=gradient_steps, policy_kwargs=dict(net_arch=[4]), **arguments
    )
    sb3.learn(TOTAL)
    assert updates is None or sb3._n_updates == updates
    model = make(QRDQN, vec_env(n_envs=n_envs), gradient_steps=gradient_steps, **arguments)
    model.learn(TOTAL)
    assert model._n_updates == sb3._n_updates and model.num_timesteps == sb3.num_timesteps
