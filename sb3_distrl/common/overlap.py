"""Environments that step while gradient steps are done."""

from weakref import WeakMethod

import numpy as np
from stable_baselines3.common.vec_env import VecEnv, VecEnvWrapper
from stable_baselines3.common.vec_env.base_vec_env import VecEnvObs, VecEnvStepReturn


class OverlapVecEnv(VecEnvWrapper):
    """
    Do ``work`` during each step of the environments: in parallel if they run in other processes. If a VecEnv overrides
    ``step()``, the work is done before it.

    With ``overlap``, the gradient steps due after a rollout are done during the first environment step of the next one. They
    are the same gradient steps on the same transitions, in the same order relative to target network updates, callbacks and
    counters; only the action of that first step, and callbacks at the start of a rollout, see the parameters before them.
    Gradient steps are not deferred at the end of ``learn()``, nor with SB3's ``HerReplayBuffer``, which asks the environments
    for rewards.

    :param work: weak reference to what is done between sending the actions and waiting for the results
    """

    def __init__(self, venv: VecEnv, work: WeakMethod) -> None:
        super().__init__(venv)
        self._work = work

    def work(self) -> None:
        """Do the work, if its owner still exists."""
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
                self.venv.step_wait()  # or its result would be taken for the next request's
            except Exception:
                pass  # Ctrl-C may have ended the environments' processes, too; the caller needs the first exception
            raise
        return self.venv.step_wait()
