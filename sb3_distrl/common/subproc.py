"""SubprocVecEnvs after an interruption."""

from multiprocessing.connection import wait
from typing import Any
from weakref import WeakKeyDictionary

from gymnasium import spaces
from stable_baselines3.common.vec_env import SubprocVecEnv, VecEnv

# Unanswered get_spaces requests to the processes of SubprocVecEnvs, by connection
_unanswered: WeakKeyDictionary[Any, int] = WeakKeyDictionary()


def discard_unread(env: VecEnv) -> None:
    """
    Discard unread messages of a SubprocVecEnv's processes after an exception such as Ctrl-C in the middle of a step: they
    would be taken for the answer to the next request. Other VecEnvs are left alone.

    :raises ValueError: if a process has ended, or its messages cannot be read
    """
    envs = env.unwrapped
    if not isinstance(envs, SubprocVecEnv):
        return
    try:
        for remote in envs.remotes:
            remote.send(("get_spaces", None))
            _unanswered[remote] = _unanswered.get(remote, 0) + 1
        for remote, process in zip(envs.remotes, envs.processes, strict=True):
            while _unanswered[remote] > 0:  # answers arrive in order
                wait([remote, process.sentinel])
                if not remote.poll():
                    raise EOFError
                answer = remote.recv()
                if isinstance(answer, tuple) and len(answer) == 2 and isinstance(answer[1], spaces.Space):
                    _unanswered[remote] -= 1
    except Exception as error:
        raise ValueError(
            f"env={env} cannot be used any more, as its processes do not answer ({type(error).__name__}): Ctrl-C ends them, "
            "too. Create the environments again, and pass them to model.set_env()."
        ) from error
    envs.waiting = False
