"""Where episodes end that a replay buffer cannot see the end of."""

import warnings

import numpy as np
from stable_baselines3 import HerReplayBuffer
from stable_baselines3.common.buffers import NStepReplayBuffer, ReplayBuffer

from sb3_distrl.buffers import PrioritizedReplayBuffer


def end_episodes(buffer: ReplayBuffer) -> None:
    """
    Have a replay buffer know that the environments were, or will be, reset: the next transition of each starts a new episode.

    SB3's buffers are not told. Of those, ``NStepReplayBuffer`` would sum rewards across the reset, ``HerReplayBuffer`` would
    take goals from the next episode, and with ``optimize_memory_usage`` the next observation is that of the next episode. What
    was added last counts as truncated for them, as SB3's ``truncate_last_trajectory()`` has it; it is terminated where the
    buffer knows of no truncation. Their other buffers keep transitions that do not depend on each other.

    :param buffer: of this library or of SB3
    """
    if isinstance(buffer, PrioritizedReplayBuffer):
        buffer.end_episodes()
    elif isinstance(buffer, HerReplayBuffer):
        with warnings.catch_warnings():
            warnings.filterwarnings(
                "ignore", "The last trajectory in the replay buffer will be truncated"
            )  # nobody can choose
            buffer.truncate_last_trajectory()
    elif (isinstance(buffer, NStepReplayBuffer) or getattr(buffer, "optimize_memory_usage", False)) and buffer.size() > 0:
        last = buffer.pos - 1
        interrupted = np.flatnonzero(buffer.dones[last] == 0)  # environments
        buffer.dones[last, interrupted] = True
        buffer.timeouts[last, interrupted] = buffer.handle_timeout_termination
