"""Environments that step while gradient steps are done."""

from weakref import WeakMethod

import numpy as np
from stable_baselines3.common.vec_env import VecEnv, VecEnvWrapper
from stable_baselines3.common.vec_env.base_vec_env import VecEnvObs, VecEnvStepReturn


class OverlapVecEnv(VecEnvWrapper):
    """
    Environments that do ``work`` during each step: side by side with environments in other processes. With a VecEnv that
    overrides ``step()`` it is done before the step.

    With ``overlap``, the gradient steps that are due after a rollout are done during the first environment step of the next.
    They are the same gradient steps on the same transitions, in the same order with updates of the target network, callbacks
    at each step and counters; only the action of that first step is chosen by the parameters before them, which callbacks
    see at the beginning of a rollout, too. The last ones of a ``learn()`` are not deferred, nor are those with SB3's
    ``HerReplayBuffer``, which asks the environments for rewards.

    :param venv: environments
    :param work: a weak reference to what is done between sending actions and waiting for the results
    """

    def __init__(self, venv: VecEnv, work: WeakMethod) -> None:
        super().__init__(venv)
        self._work = work

    def work(self) -> None:
        """Do the work, if whose it is still exists."""
        if (work := self._work()) is not None:
            work()

    def reset(self) -> VecEnvObs:
        return self.venv.reset()

    def step(self, actions: np.ndarray) -> VecEnvStepReturn:
        if type(self.venv).step is VecEnv.step:
            return super().step(actions)
        self.work()  # it overrides step(), so nothing can run in between
        return self.venv.step(actions)

    def step_wait(self) -> VecEnvStepReturn:
        try:
            self.work()
        except BaseException:
            try:
                self.venv.step_wait()  # or its result would be taken for that of whatever is asked next
            except Exception:
                pass  # Ctrl-C may have ended the processes of the environments, too; it is what the caller has to know
            raise
        return self.venv.step_wait()
