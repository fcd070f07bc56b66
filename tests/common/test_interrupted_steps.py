"""Ctrl-C in the middle of a step of environments in other processes: training goes on, or says what is to be done."""

import os
import signal
import time
from typing import Any

import numpy as np
import pytest
from stable_baselines3.common.vec_env import SubprocVecEnv, VecFrameStack

from sb3_distrl import IQN, QRDQN, Rainbow
from sb3_distrl.common.algorithm import ValueAlgorithm
from sb3_distrl.common.subproc import discard_unread
from tests.common.envs import CountingEnv
from tests.common.settings import make

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="processes of environments send signals to this one")


class InterruptingEnv(CountingEnv):
    """
    Sends SIGINT to the process that made it, in the middle of a step, and takes its time to answer.

    :param env_id: a number to know the environment by
    :param at: the step, counted over all episodes; 0 is never
    :param answers: ``False`` if its process ends, as those of a terminal do at Ctrl-C
    """

    def __init__(self, env_id: int, at: int, answers: bool = True) -> None:
        super().__init__(env_id=env_id)
        self.left, self.answers = at, answers

    def step(self, action: int) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        self.left -= 1
        if self.left == 0:
            os.kill(os.getppid(), signal.SIGINT)
            time.sleep(0.1)
            if not self.answers:
                raise KeyboardInterrupt
        return super().step(action)


def interrupting(at: int, answers: bool = True, n_envs: int = 3) -> SubprocVecEnv:
    """:return: environments of which the second one interrupts"""
    envs = [lambda i=i: InterruptingEnv(i, at if i == n_envs // 2 else 0, answers) for i in range(n_envs)]
    return SubprocVecEnv(envs, start_method="fork")


def check_transitions(model: Any) -> None:
    buffer = model.replay_buffer
    obs, next_obs = buffer.observations[: buffer.size()], buffer.next_observations[: buffer.size()]
    assert (obs[..., 0] == np.arange(model.n_envs)).all(), "each environment has its own"
    assert (next_obs[..., 2] == obs[..., 2] + 1).all() and (next_obs[..., :2] == obs[..., :2]).all()
    buffer.check_valid()


@pytest.mark.parametrize(
    ("algorithm", "at", "overlap"),
    [(Rainbow, 20, True), (IQN, 20, True), *((QRDQN, at, overlap) for at in (1, 6, 20) for overlap in (False, True))],
)
def test_training_goes_on(algorithm: type[ValueAlgorithm], at: int, overlap: bool) -> None:
    """Also where the first environments were read already, and the others were not."""
    env = interrupting(at)
    model = make(algorithm, env, overlap=overlap, train_freq=1, learning_starts=10)
    with pytest.raises(KeyboardInterrupt):
        model.learn(1000)
    before = model.num_timesteps
    assert before == 3 * (at - 1)
    model.learn(60, reset_num_timesteps=False)
    assert model.num_timesteps == before + 60
    check_transitions(model)
    env.close()


def test_another_model_takes_the_environments_over() -> None:
    env = interrupting(6)
    with pytest.raises(KeyboardInterrupt):
        make(QRDQN, env).learn(1000)
    model = make(Rainbow, env)
    model.learn(60)
    assert model.num_timesteps == 60
    check_transitions(model)
    env.close()


def test_wrapped_environments() -> None:
    env = VecFrameStack(interrupting(6), n_stack=2)
    model = make(QRDQN, env)
    with pytest.raises(KeyboardInterrupt):
        model.learn(1000)
    model.learn(60, reset_num_timesteps=False)
    assert model.num_timesteps == 75
    env.close()


@pytest.mark.parametrize("overlap", [False, True])
def test_processes_that_have_ended(overlap: bool) -> None:
    """As on Ctrl-C in a terminal, which all processes get."""
    env = interrupting(6, answers=False)
    model = make(QRDQN, env, overlap=overlap)
    with pytest.raises(KeyboardInterrupt):
        model.learn(1000)
    env.processes[1].join()
    for _ in range(2):
        message = r"^env=.* cannot be used any more.*Create the environments again, and pass them to model\.set_env\(\)"
        with pytest.raises(ValueError, match=message):
            model.learn(60, reset_num_timesteps=False)
    another = interrupting(0)
    model.set_env(another)
    model.learn(60, reset_num_timesteps=False)
    assert model.num_timesteps == 75
    check_transitions(model)
    another.close()


def test_an_interrupt_while_waiting_for_what_is_discarded() -> None:
    """Each question has one answer, even where somebody did not wait for it."""
    env = interrupting(0)
    env.reset()
    env.step_async(np.zeros(3, int))
    env.remotes[1].recv()
    waiting = env.remotes[2].recv

    def interrupted() -> Any:
        raise KeyboardInterrupt

    env.remotes[2].recv = interrupted
    with pytest.raises(KeyboardInterrupt):
        discard_unread(env)
    env.remotes[2].recv = waiting
    discard_unread(env)
    obs = env.reset()
    assert obs[:, 0].tolist() == [0, 1, 2] and not env.waiting
    env.close()


def test_nothing_is_lost_where_nothing_is_unread() -> None:
    env = interrupting(0)
    obs = env.reset()
    discard_unread(env)
    next_obs, *_ = env.step(np.zeros(3, int))
    assert np.array_equal(next_obs[:, 1:], obs[:, 1:] + [0, 1])
    env.close()
