"""SubprocVecEnvs after an interruption."""

from multiprocessing.connection import wait
from typing import Any
from weakref import WeakKeyDictionary

from gymnasium import spaces
from stable_baselines3.common.vec_env import SubprocVecEnv, VecEnv

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
