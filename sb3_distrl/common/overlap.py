"""Gradient steps while the environments step."""

from collections.abc import Callable
from multiprocessing.connection import wait
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
from gymnasium import spaces
from stable_baselines3 import HerReplayBuffer
from stable_baselines3.common.type_aliases import RolloutReturn
from stable_baselines3.common.vec_env import SubprocVecEnv, VecEnv, VecEnvWrapper
from stable_baselines3.common.vec_env.base_vec_env import VecEnvObs, VecEnvStepReturn

from sb3_distrl.common.resumable import Resumable

# Questions for their spaces that the processes of SubprocVecEnvs have not answered yet, by connection
_unanswered: WeakKeyDictionary[Any, int] = WeakKeyDictionary()


def discard_unread(env: VecEnv) -> None:
    """
    Discard what the processes of a SubprocVecEnv have sent and nobody has read, because an exception such as Ctrl-C came in
    the middle of a step: it would be taken for the answer to the next question.

    :param env: environments; all others than SB3's SubprocVecEnv are left alone
    :raises ValueError: if a process has ended, or what it sends cannot be read
    """
    envs = env.unwrapped
    if not isinstance(envs, SubprocVecEnv):
        return
    try:
        for remote in envs.remotes:
            remote.send(("get_spaces", None))
            _unanswered[remote] = _unanswered.get(remote, 0) + 1
        for remote, process in zip(envs.remotes, envs.processes, strict=True):
            while _unanswered[remote] > 0:  # the answers come in order
                wait([remote, process.sentinel])
                if not remote.poll():
                    raise EOFError
                answer = remote.recv()
                if isinstance(answer, tuple) and len(answer) == 2 and isinstance(answer[1], spaces.Space):
                    _unanswered[remote] -= 1
    except Exception as error:
        raise ValueError(
            f"env={env} cannot be used any more, as its processes do not answer ({type(error).__name__}): Ctrl-C ends them, "
            "too. Make the environments anew, and hand them over by model.set_env()."
        ) from error
    envs.waiting = False


class OverlapVecEnv(VecEnvWrapper):
    """
    Environments whose step does something else while they work: those in other processes side by side with it.

    :param venv: environments
    """

    work: Callable[[], None] | None = None  # what is to be done between sending actions and waiting for what comes of them

    def reset(self) -> VecEnvObs:
        return self.venv.reset()

    def step(self, actions: np.ndarray) -> VecEnvStepReturn:
        if type(self.venv).step is VecEnv.step:
            return super().step(actions)
        if self.work is not None:  # the environments' own step does not part sending from waiting
            self.work()
        return self.venv.step(actions)

    def step_wait(self) -> VecEnvStepReturn:
        try:
            if self.work is not None:
                self.work()
        except BaseException:
            try:
                self.venv.step_wait()  # or its result would be taken for that of whatever is asked next
            except Exception:
                pass  # Ctrl-C may have ended the processes of the environments, too; it is what the caller has to know
            raise
        return self.venv.step_wait()


class Overlapping(Resumable):
    """
    SB3's loop with ``overlap``: the gradient steps that are due after a rollout are done during the first step of the next.

    They are the same gradient steps on the same transitions, in the same order with updates of the target network, callbacks
    at each step and counters; only the action of that first step is chosen by the parameters before them, which are also
    those that a callback sees at the beginning of a rollout. The last ones of a ``learn()`` are not put off.

    Gradient steps must not ask the environments for anything meanwhile; those with SB3's ``HerReplayBuffer`` do, and keep
    SB3's order. With a VecEnv that has a ``step()`` of its own they are done before it, not side by side.
    """

    overlap: bool
    _put_off = 0  # gradient steps to do during the next environment step
    _putting_off = False  # what train() is asked for next
    _while_stepping: OverlapVecEnv | None = None

    def collect_rollouts(self, env: VecEnv, *args: Any, **kwargs: Any) -> RolloutReturn:  # type: ignore[override]
        """Collect transitions, as in SB3, and do gradient steps meanwhile that were put off."""
        self._putting_off = False
        if not self.overlap or isinstance(self.replay_buffer, HerReplayBuffer):
            self._catch_up()  # a model may have been saved with gradient steps put off
            return super().collect_rollouts(env, *args, **kwargs)
        if self._while_stepping is None or self._while_stepping.venv is not env:
            self._while_stepping = OverlapVecEnv(env)
        self._while_stepping.work = self._catch_up
        try:
            rollout = super().collect_rollouts(self._while_stepping, *args, **kwargs)
        finally:
            self._while_stepping.work = None  # or the model, and its replay buffer, would be part of a cycle
        self._putting_off = rollout.continue_training and self.num_timesteps < self._total_timesteps
        return rollout

    def train(self, gradient_steps: int, batch_size: int = 32) -> None:
        """
        Do gradient steps on batches from the replay buffer; with ``overlap``, those that ``learn()`` asks for come later.

        :param gradient_steps: how many; with ``replay_ratio``, ``learn()`` has those done that are due
        :param batch_size: transitions in each
        """
        if self._putting_off:
            self._put_off, self._putting_off = gradient_steps, False
        else:
            self._train(gradient_steps, batch_size)

    def _train(self, gradient_steps: int, batch_size: int) -> None:
        raise NotImplementedError

    def _catch_up(self) -> None:
        gradient_steps, self._put_off = self._put_off, 0
        if gradient_steps > 0 and self.replay_buffer.size() > 0:  # type: ignore[union-attr]  # one may load a model without it
            self._train(gradient_steps, self.batch_size)
            self.policy.set_training_mode(False)  # as SB3 has it while it collects

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "_while_stepping": None}  # so that models can be copied, which SB3's wrappers cannot

    def _excluded_save_params(self) -> list[str]:
        return [*super()._excluded_save_params(), "_while_stepping"]
