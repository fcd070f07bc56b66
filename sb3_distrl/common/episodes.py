"""Ends of episodes that a replay buffer cannot see."""

import warnings

import numpy as np
from stable_baselines3 import HerReplayBuffer
from stable_baselines3.common.buffers import NStepReplayBuffer, ReplayBuffer

from sb3_distrl.buffers import PrioritizedReplayBuffer


def end_episodes(buffer: ReplayBuffer) -> None:
    """
    Tell a replay buffer that all environments are reset: the next transition of each starts a new episode.

    SB3's buffers are not told otherwise: ``NStepReplayBuffer`` would sum rewards across the reset, ``HerReplayBuffer`` would
    take goals from the next episode, and with ``optimize_memory_usage`` the next observation would be that of the next
    episode. In these, the last transition counts as truncated, as after SB3's ``truncate_last_trajectory()``, or as terminated
    if the buffer does not handle truncation. SB3's other buffers keep independent transitions, so nothing is done.
    """
    if isinstance(buffer, PrioritizedReplayBuffer):
        buffer.end_episodes()
    elif isinstance(buffer, HerReplayBuffer):
        with warnings.catch_warnings():
            # The user has no choice
            warnings.filterwarnings("ignore", "The last trajectory in the replay buffer will be truncated")
            buffer.truncate_last_trajectory()
    elif (isinstance(buffer, NStepReplayBuffer) or getattr(buffer, "optimize_memory_usage", False)) and buffer.size() > 0:
        last = buffer.pos - 1
        interrupted = np.flatnonzero(buffer.dones[last] == 0)  # indices of environments
        buffer.dones[last, interrupted] = True
        buffer.timeouts[last, interrupted] = buffer.handle_timeout_termination
