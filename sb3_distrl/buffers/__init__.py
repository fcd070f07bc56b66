from sb3_distrl.buffers.prioritized import (
    PrioritizedDictReplayBuffer,
    PrioritizedReplayBuffer,
    PrioritizedReplayBufferSamples,
)
from sb3_distrl.buffers.rows import RowArray
from sb3_distrl.buffers.sum_tree import SumTree

__all__ = ["PrioritizedDictReplayBuffer", "PrioritizedReplayBuffer", "PrioritizedReplayBufferSamples", "RowArray", "SumTree"]
