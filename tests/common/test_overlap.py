"""Gradient steps while the environments step: the same ones as in SB3's order, and nothing is left half done."""

import gc
import multiprocessing
import weakref
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch as th
from stable_baselines3 import HerReplayBuffer
from stable_baselines3.common.envs import BitFlippingEnv
from stable_baselines3.common.vec_env import DummyVecEnv, SubprocVecEnv

from sb3_distrl import IQN, QRDQN, Rainbow
from sb3_distrl.common.algorithm import ValueAlgorithm
from sb3_distrl.common.callbacks import RollingCheckpointCallback
from tests.common.envs import CountingEnv, make_env, vec_env
from tests.common.settings import make, snapshot


def fingerprint(network: th.nn.Module) -> float:
    return float(sum(parameter.detach().double().abs().sum() for parameter in network.parameters()))


def gradient_steps(model: Any, totals: list[int]) -> list[tuple[Any, ...]]:
    """
    :param model: any
    :param totals: environment steps to learn for, one learn() after the other
    :return: of each gradient step, all that it depends on but the actions in the buffer and what is drawn
    """
    seen = []
    gradient_step = model.gradient_step

    def keep(batch: Any) -> None:
        buffer, group = model.replay_buffer, model.policy.optimizer.param_groups[0]
        target_updates = model._n_calls // max(model.target_update_interval // model.n_envs, 1)
        seen.append((int(buffer._added[0]), model.num_timesteps, target_updates, model.beta, group["lr"], len(batch.rewards)))
        assert model.policy.training
        gradient_step(batch)

    model.gradient_step = keep
    for total in totals:
        model.learn(total)
    assert model._n_updates == len(seen)
    return seen


SCHEDULES: list[dict[str, Any]] = [
    dict(train_freq=1),
    dict(train_freq=4, gradient_steps=3),
    dict(train_freq=4, gradient_steps=-1),
    dict(train_freq=2, replay_ratio=0.4),
]


@pytest.mark.parametrize(
    ("algorithm", "schedule", "n_envs"),
    [
        *((QRDQN, schedule, n_envs) for schedule in SCHEDULES for n_envs in (1, 3)),
        (Rainbow, SCHEDULES[1], 3),
        (IQN, SCHEDULES[3], 1),
    ],
)
def test_the_same_gradient_steps(algorithm: type[ValueAlgorithm], schedule: dict[str, Any], n_envs: int) -> None:
    """Also those of the end, where the target network is updated between them, and where learn() is called again."""
    seen = []
    for overlap in (False, True):
        model = make(algorithm, vec_env(n_envs=n_envs), overlap=overlap, target_update_interval=10, **schedule)
        seen.append(gradient_steps(model, [48, 49]))
    assert seen[0] == seen[1] and len(seen[0]) > 20


def test_one_step_later() -> None:
    """Actions after gradient steps are chosen by the parameters before them, and all others by the newest."""
    model = make(Rainbow, learning_starts=8, train_freq=4)
    chosen_by: list[float] = []
    predict = model.predict

    def keep(*args: Any, **kwargs: Any) -> Any:
        assert not model.policy.training
        chosen_by.append(fingerprint(model.q_net))
        return predict(*args, **kwargs)

    model.predict = keep
    model.learn(20)
    steps = [now != before for before, now in pairwise(chosen_by)]
    # Choices from step 8 on are the model's; it learns after steps 12 and 16, during steps 13 and 17
    assert len(chosen_by) == 12 and [i + 9 for i, changed in enumerate(steps) if changed] == [13, 17]


def test_gradient_steps_come_between_sending_and_waiting() -> None:
    events: list[str] = []

    class Env(DummyVecEnv):
        def step_async(self, actions: np.ndarray) -> None:
            events.append("send")
            super().step_async(actions)

        def step_wait(self) -> Any:
            events.append("wait")
            return super().step_wait()

    model = make(IQN, Env([make_env()]), learning_starts=0, train_freq=2)
    gradient_step = model.gradient_step
    model.gradient_step = lambda batch: events.append("train") or gradient_step(batch)
    model.learn(6)
    rollout = ["send", "wait"]
    assert events == 2 * rollout + 2 * ["send", "train", "wait", *rollout] + ["train"]


def test_environments_and_learner_work_side_by_side() -> None:
    """Each gradient step and the environments' next step wait for each other, which they could not one after the other."""
    n_steps, meeting = 20, multiprocessing.get_context("fork").Barrier(3)  # of two environments and the learner

    class Meeting(CountingEnv):
        n_calls = 0

        def step(self, action: int) -> Any:
            self.n_calls += 1
            if self.n_calls > 1:  # no gradient step is due during the first one
                meeting.wait(300)
            return super().step(action)

    env = SubprocVecEnv([Meeting, Meeting], start_method="fork")
    model = make(QRDQN, env, learning_starts=0, train_freq=1)
    met = []

    def meet(batch: Any) -> None:
        if model.num_timesteps < 2 * n_steps:  # no step follows the last one
            meeting.wait(300)
            met.append(model.num_timesteps)

    model.gradient_step = meet
    model.learn(2 * n_steps)
    env.close()
    assert met == list(range(2, 2 * n_steps, 2))


def transitions(model: Any) -> list[tuple[int, int, float]]:
    """:return: of each stored transition of the first environment, in order: episode, step, and by how much it goes on"""
    buffer = model.replay_buffer
    obs, next_obs = buffer.observations[: buffer.size(), 0], buffer.next_observations[: buffer.size(), 0]
    return [(int(o[1]), int(o[2]), float(n[2] - o[2])) for o, n in zip(obs, next_obs, strict=True)]


@pytest.mark.parametrize("subproc", [False, True])
@pytest.mark.parametrize("error", [KeyboardInterrupt, ValueError])
def test_an_exception_while_environments_step(error: type[BaseException], subproc: bool) -> None:
    """What the environments were asked for is taken, so that the next learn() does not take it for its own."""
    env = SubprocVecEnv([make_env()], start_method="fork") if subproc else DummyVecEnv([make_env()])
    model = make(Rainbow, env, learning_starts=10, train_freq=1)
    gradient_step, count = model.gradient_step, iter(range(100))

    def stop(batch: Any) -> None:
        if next(count) == 5:
            raise error
        gradient_step(batch)

    model.gradient_step = stop
    with pytest.raises(error):
        model.learn(40)
    before = model.num_timesteps
    model.learn(30, reset_num_timesteps=False)
    assert model.num_timesteps == before + 30
    assert all(ahead == 1 for _, _, ahead in transitions(model)), "each transition leads to the next step"
    model.replay_buffer.check_valid()
    env.close()


def test_train_of_the_user_is_not_deferred() -> None:
    model = make(Rainbow, learning_starts=8, train_freq=4)
    model.learn(40, callback=lambda *_: model.num_timesteps < 22)
    before, updates = snapshot(model), model._n_updates
    model.train(3, batch_size=8)
    assert model._n_updates == updates + 3
    assert any(not th.equal(value, before[name]) for name, value in snapshot(model).items())


def test_the_last_gradient_steps_are_not_deferred() -> None:
    for overlap in (False, True):
        model = make(QRDQN, learning_starts=8, train_freq=4, overlap=overlap)
        model.learn(16)
        assert model._n_updates == 2 and model._deferred_steps == 0


def test_deferred_steps_are_saved(tmp_path: Any) -> None:
    """A callback at the beginning of a rollout sees a model that has gradient steps to do."""
    model = make(QRDQN, learning_starts=8, train_freq=4)
    model.learn(18, callback=lambda *_: model.num_timesteps < 17)
    model._deferred_steps = 2
    model.save(tmp_path / "model")
    loaded = QRDQN.load(tmp_path / "model", env=vec_env(), device="cpu")
    assert loaded._deferred_steps == 2 and loaded._overlap_env is None
    loaded.replay_buffer = model.replay_buffer
    updates = loaded._n_updates
    loaded.learn(1, reset_num_timesteps=False)
    assert loaded._n_updates >= updates + 2


def test_environment_may_be_changed() -> None:
    model = make(Rainbow, learning_starts=8)
    model.learn(30)
    model.set_env(vec_env(first_id=5))
    model.learn(30, reset_num_timesteps=False)
    assert {int(obs[0]) for obs in model.replay_buffer.observations[:60, 0]} == {0, 5}


def deferred(tmp_path: Path) -> Path:
    """:return: a checkpoint with gradient steps to do, and what it was made with"""
    model = make(QRDQN, learning_starts=20, train_freq=4, gradient_steps=3)
    model.learn(62, callback=RollingCheckpointCallback(40, tmp_path, keep=9))
    return tmp_path / "checkpoint_40_steps.zip"


@pytest.mark.parametrize("overlap", [True, False])
def test_deferred_steps_are_done_in_either_order(overlap: bool, tmp_path: Path) -> None:
    model = QRDQN.load_checkpoint(deferred(tmp_path), env=vec_env(), overlap=overlap, device="cpu")
    assert model._deferred_steps == 3
    updates = model._n_updates
    model.learn(4, reset_num_timesteps=False)
    assert model._deferred_steps == 0 and model._n_updates == updates + 6


@pytest.mark.parametrize("reset_num_timesteps", [True, False])
def test_a_checkpoint_without_its_buffer(reset_num_timesteps: bool, tmp_path: Path) -> None:
    model = QRDQN.load(deferred(tmp_path), env=vec_env(), device="cpu")
    model.learn(40, reset_num_timesteps=reset_num_timesteps)
    assert model._deferred_steps == 0


def test_hindsight_buffers_ask_the_environments() -> None:
    env = SubprocVecEnv([partial(BitFlippingEnv, n_bits=4, continuous=False)] * 2, start_method="fork")
    model = QRDQN(
        "MultiInputPolicy", env, replay_buffer_class=HerReplayBuffer, train_freq=1, learning_starts=20, buffer_size=500
    )
    model.learn(60)
    assert model._n_updates > 10
    env.close()


def test_models_are_freed_without_a_collection() -> None:
    model = make(QRDQN)
    model.learn(60)
    gc.collect()
    gc.disable()
    try:
        buffer = weakref.ref(model.replay_buffer)
        del model
        assert buffer() is None
    finally:
        gc.enable()


def test_environments_with_a_step_of_their_own() -> None:
    class Env(DummyVecEnv):
        steps = 0

        def step(self, actions: np.ndarray) -> Any:
            self.steps += 1
            return super().step(actions)

    env = Env([make_env()])
    model = make(QRDQN, env, learning_starts=8, train_freq=4)
    model.learn(40)
    assert env.steps == 40 and model._n_updates == 8


def test_what_stops_training_is_what_the_caller_sees() -> None:
    """Also where the environments fail when they are waited for."""

    class Env(CountingEnv):
        def step(self, action: int) -> Any:
            if self.episode == 2:
                raise RuntimeError("of the environment")
            return super().step(action)

    model = make(QRDQN, DummyVecEnv([Env]), learning_starts=0, train_freq=1)

    def stop(batch: Any) -> None:
        if model.replay_buffer._added[0] == 11:  # 5 and 6 steps
            raise KeyboardInterrupt

    model.gradient_step = stop
    with pytest.raises(KeyboardInterrupt):
        model.learn(40)
