from sb3_distrl.buffers.prioritized import PrioritizedDictReplayBuffer, PrioritizedReplayBuffer
from sb3_distrl.buffers.samples import PrioritizedReplayBufferSamples
from sb3_distrl.buffers.storage import RowArray
from sb3_distrl.buffers.sum_tree import SumTree

__all__ = ["PrioritizedDictReplayBuffer", "PrioritizedReplayBuffer", "PrioritizedReplayBufferSamples", "RowArray", "SumTree"]
