"""Feature extractors."""

import torch as th
from gymnasium import spaces
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor, NatureCNN
from torch import nn

NATURE_SIDE = 36  # pixels; the smallest images for the kernels of the Nature DQN


class NatureConv(NatureCNN):
    """
    The convolutions of the Nature DQN (Mnih et al. 2015) without its fully connected layer.

    In dueling, noisy and implicit quantile networks the fully connected layers belong to the head: each stream has its own,
    these are the noisy ones, and the quantile embedding multiplies their input.

    :param observation_space: channel-first images
    :param normalized_image: as in SB3's ``NatureCNN``
    """

    def __init__(self, observation_space: spaces.Box, normalized_image: bool = False) -> None:
        super().__init__(observation_space, features_dim=1, normalized_image=normalized_image)
        first_layer = self.linear[0]
        assert isinstance(first_layer, nn.Linear)
        self._features_dim = first_layer.in_features
        self.linear = nn.Sequential()  # an empty sequence returns its input


class Convolutions(BaseFeaturesExtractor):
    """
    Convolutions without padding, each followed by a ReLU, then flattened: [B, C, H, W] to [B, features_dim].

    :param observation_space: channel-first, shape [C, H, W]
    :param layers: channels, kernel size and stride of each
    :raises ValueError: for observations of another shape, or too small for the kernels
    """

    def __init__(self, observation_space: spaces.Box, layers: list[tuple[int, int, int]]) -> None:
        shape = observation_space.shape
        if len(shape) != 3:
            raise ValueError(f"observation_space of shape {shape} is not an image: use channel-first observations, [C, H, W].")
        channels, height, width = shape
        modules: list[nn.Module] = []
        for out_channels, kernel, stride in layers:
            modules += [nn.Conv2d(channels, out_channels, kernel, stride), nn.ReLU()]
            channels, height, width = out_channels, (height - kernel) // stride + 1, (width - kernel) // stride + 1
        if min(height, width) < 1:
            raise ValueError(
                f"observation_space of shape {shape} is too small for {type(self).__name__}: use channel-first "
                "observations [C, H, W] of the size it was made for, or another features_extractor_class."
            )
        super().__init__(observation_space, features_dim=channels * height * width)
        self.cnn = nn.Sequential(*modules, nn.Flatten())

    def forward(self, observations: th.Tensor) -> th.Tensor:
        return self.cnn(observations)


class DataEfficientConv(Convolutions):
    """
    The convolutions of data-efficient Rainbow (van Hasselt et al. 2019, appendix E): 5x5 with stride 5, 32 and 64 channels.

    :param observation_space: channel-first images of 84x84
    """

    def __init__(self, observation_space: spaces.Box) -> None:
        super().__init__(observation_space, [(32, 5, 5), (64, 5, 5)])


class MinAtarConv(Convolutions):
    """
    The convolution for MinAtar (Young & Tian 2019, section 3): 16 channels of 3x3.

    :param observation_space: channel-first, 10x10
    """

    def __init__(self, observation_space: spaces.Box) -> None:
        super().__init__(observation_space, [(16, 3, 1)])


# The papers' hidden layers after these convolutions; SB3's NatureCNN includes its own
DEFAULT_NET_ARCH: dict[type[BaseFeaturesExtractor], list[int]] = {
    NatureConv: [512],
    DataEfficientConv: [256],
    MinAtarConv: [128],
    NatureCNN: [],
}
