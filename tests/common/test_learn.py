"""``learn()`` that does no gradient step says so, and ``train()`` needs no ``learn()`` before."""

import warnings
from typing import Any

import numpy as np
import pytest
import torch as th
from stable_baselines3.common.buffers import ReplayBuffer
from stable_baselines3.common.logger import configure

from sb3_distrl import IQN, QRDQN, Rainbow
from sb3_distrl.common.algorithm import ValueAlgorithm
from tests.common.envs import vec_env
from tests.common.settings import make, record, snapshot


def told(model: Any, total: int, **kwargs: Any) -> list[str]:
    """:return: the warnings of ``learn``"""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        model.learn(total, **kwargs)
    assert all(warning.filename == __file__ for warning in caught), "they point to the call"
    return [str(warning.message) for warning in caught]


# Without a gradient step


@pytest.mark.parametrize(
    ("algorithm", "n_envs", "overlap"),
    [(Rainbow, 1, True), (IQN, 1, True), *((QRDQN, n_envs, overlap) for n_envs in (1, 3) for overlap in (False, True))],
)
def test_learning_starts_after_the_end(algorithm: type[ValueAlgorithm], n_envs: int, overlap: bool) -> None:
    model = make(algorithm, vec_env(n_envs=n_envs), learning_starts=60, overlap=overlap)
    assert told(model, 60) == [
        "learn(total_timesteps=60) ended without a gradient step, as learning_starts=60 environment steps come before the "
        "first: use a smaller learning_starts or a larger total_timesteps."
    ]
    assert told(model, 61) == [] and model._n_updates > 0
    assert len(told(model, 20)) == 1, "it starts anew"
    assert told(model, 100, reset_num_timesteps=False) == []


@pytest.mark.parametrize("overlap", [False, True])
def test_a_replay_ratio_too_small(overlap: bool) -> None:
    model = make(QRDQN, replay_ratio=0.02, overlap=overlap)
    assert told(model, 60) == [
        "learn(total_timesteps=60) ended without a gradient step, as replay_ratio=0.02 asks for less than one after "
        "learning_starts=20: use a larger replay_ratio or total_timesteps."
    ]
    assert told(model, 20, reset_num_timesteps=False) == [] and model._n_updates == 1


def test_nothing_is_said_where_nothing_is_wrong() -> None:
    stopped = make(QRDQN)
    assert told(stopped, 100, callback=lambda *_: stopped.num_timesteps < 10) == []
    assert told(make(QRDQN, gradient_steps=0), 60) == []
    assert told(make(QRDQN), 0) == []
    assert told(make(QRDQN, train_freq=(1, "episode")), 21) == []
    interrupted = make(QRDQN)

    def interrupt(*_: Any) -> bool:
        raise KeyboardInterrupt

    with warnings.catch_warnings(), pytest.raises(KeyboardInterrupt):
        warnings.simplefilter("error")
        interrupted.learn(10, callback=interrupt)


# Without learn()


def filled_by_hand(algorithm: type[ValueAlgorithm], n_envs: int = 2, **kwargs: Any) -> Any:
    """:return: a model with transitions of counting environments in its replay buffer, which has never learnt"""
    env = vec_env(n_envs=n_envs)
    model = make(algorithm, env, **kwargs)
    obs = env.reset()
    for _ in range(30):
        actions = np.array([env.action_space.sample() for _ in range(n_envs)])
        next_obs, rewards, dones, infos = env.step(actions)
        true_next = next_obs.copy()
        for i in np.flatnonzero(dones):
            true_next[i] = infos[i]["terminal_observation"]
        model.replay_buffer.add(obs, true_next, actions, rewards, dones, infos)
        obs = next_obs
    return model


@pytest.mark.parametrize(
    ("algorithm", "overlap", "replay_ratio"),
    [(Rainbow, True, None), (IQN, False, 0.25), *((QRDQN, flag, ratio) for flag in (False, True) for ratio in (None, 0.25))],
)
def test_train_without_learn(algorithm: type[ValueAlgorithm], overlap: bool, replay_ratio: float | None) -> None:
    model = filled_by_hand(algorithm, overlap=overlap, replay_ratio=replay_ratio)
    before = snapshot(model)
    model.train(gradient_steps=10, batch_size=8)
    assert model._n_updates == 10
    assert any(not th.equal(value, before[name]) for name, value in snapshot(model).items())
    model.learn(32)
    assert model._n_updates > 10


def test_train_without_learn_on_sb3s_buffer() -> None:
    model = filled_by_hand(QRDQN, replay_buffer_class=ReplayBuffer)
    model.train(10)
    assert model._n_updates == 10


def test_train_without_learn_logs_where_it_is_told_to(tmp_path: Any, capsys: pytest.CaptureFixture[str]) -> None:
    model = filled_by_hand(QRDQN, verbose=1, tensorboard_log=str(tmp_path))
    model.train(100, batch_size=8)
    assert not list(tmp_path.iterdir()) and "n_updates" not in capsys.readouterr().out
    recorder = record(model)
    model.train(100, batch_size=8)
    model.logger.dump()
    assert recorder.lines[-1]["train/n_updates"] == 200 and recorder.lines[-1]["train/loss"] > 0
    model = filled_by_hand(QRDQN)
    model.set_logger(configure(str(tmp_path), ["csv"]))
    model.train(100, batch_size=8)
    model.logger.dump()
    assert "train/loss" in (tmp_path / "progress.csv").read_text()


def test_a_loaded_model_trains_without_learn(tmp_path: Any) -> None:
    model = filled_by_hand(Rainbow)
    model.save_checkpoint(tmp_path / "model")
    loaded = Rainbow.load_checkpoint(tmp_path / "model", env=vec_env(n_envs=2), device="cpu")
    loaded.train(3, batch_size=8)
    assert loaded._n_updates == 3


@pytest.mark.parametrize(("initial", "final"), [(0.1, 1.0), (1.0, 0.1), (0.0, 1.0), (1.0, 0.0)])
def test_beta_stays_between_its_ends(initial: float, final: float) -> None:
    """SB3's schedule goes beyond them by rounding."""
    for fraction in (0.6, 0.65, 0.7, 1.0):
        model = make(Rainbow, vec_env(), beta_initial=initial, beta_final=final, beta_fraction=fraction)
        for step in range(1001):
            model._current_progress_remaining = 1 - step / 1000
            assert min(initial, final) <= model.beta <= max(initial, final)
        assert model.beta == pytest.approx(final)


def test_alpha_above_one_is_deprecated() -> None:
    """Files of 0.1.0 may have it."""
    with pytest.warns(DeprecationWarning, match=r"^alpha=1\.2 above 1 is deprecated: use 0\.5"):
        make(Rainbow, vec_env(), prioritized=True, alpha=1.2)
