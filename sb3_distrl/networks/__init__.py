from sb3_distrl.networks.embedding import QuantileEmbedding
from sb3_distrl.networks.features import DEFAULT_NET_ARCH, NATURE_SIDE, DataEfficientConv, MinAtarConv, NatureConv
from sb3_distrl.networks.heads import DuelingHead, Head
from sb3_distrl.networks.noisy import MLP, Noise, NoisyLinear
from sb3_distrl.renamed import renamed

__all__ = [
    "DEFAULT_NET_ARCH",
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

__getattr__ = renamed(__name__, HIDDEN="DEFAULT_NET_ARCH")
