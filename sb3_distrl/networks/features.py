"""Feature extractors."""

from gymnasium import spaces
from stable_baselines3.common.torch_layers import NatureCNN
from torch import nn


class NatureConv(NatureCNN):
    """
    The convolutions of the Nature DQN (Mnih et al. 2015) without its fully connected layer.

    In dueling, noisy and implicit quantile networks the fully connected layers belong to the head: each stream has its
    own, they are the noisy ones, and the quantile embedding multiplies what comes before them.

    :param observation_space: channel-first images
    :param normalized_image: as in SB3's ``NatureCNN``
    """

    def __init__(self, observation_space: spaces.Box, normalized_image: bool = False) -> None:
        super().__init__(observation_space, features_dim=1, normalized_image=normalized_image)
        first_layer = self.linear[0]
        assert isinstance(first_layer, nn.Linear)
        self._features_dim = first_layer.in_features
        self.linear = nn.Sequential()  # an empty sequence returns its input
