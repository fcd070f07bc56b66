from sb3_distrl.networks.embedding import QuantileEmbedding
from sb3_distrl.networks.features import HIDDEN, NATURE_SIDE, DataEfficientConv, MinAtarConv, NatureConv
from sb3_distrl.networks.heads import MLP, DuelingHead, Head
from sb3_distrl.networks.noisy import Noise, NoisyLinear

__all__ = [
    "HIDDEN",
    "MLP",
    "NATURE_SIDE",
    "DataEfficientConv",
    "DuelingHead",
    "Head",
    "MinAtarConv",
    "NatureConv",
    "Noise",
    "NoisyLinear",
    "QuantileEmbedding",
]
