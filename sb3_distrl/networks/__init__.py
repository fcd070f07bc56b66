from sb3_distrl.networks.embedding import QuantileEmbedding
from sb3_distrl.networks.features import NatureConv
from sb3_distrl.networks.heads import MLP, DuelingHead, Head
from sb3_distrl.networks.noisy import Noise, NoisyLinear

__all__ = ["MLP", "DuelingHead", "Head", "NatureConv", "Noise", "NoisyLinear", "QuantileEmbedding"]
