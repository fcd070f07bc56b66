from sb3_distrl.networks.embedding import QuantileEmbedding
from sb3_distrl.networks.features import HIDDEN, DataEfficientConv, MinAtarConv, NatureConv
from sb3_distrl.networks.heads import MLP, DuelingHead, Head
from sb3_distrl.networks.noisy import Noise, NoisyLinear

__all__ = [
    "HIDDEN",
    "MLP",
    "DataEfficientConv",
    "DuelingHead",
    "Head",
    "MinAtarConv",
    "NatureConv",
    "Noise",
    "NoisyLinear",
    "QuantileEmbedding",
]
