"""What Dopamine (Castro et al. 2018, https://github.com/google/dopamine) does differently: networks and priorities."""

import torch as th
from gymnasium import spaces
from stable_baselines3 import DQN
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor
from torch import nn

from sb3_distrl import Rainbow
from sb3_distrl.common.loss import Loss

LAYERS = ((32, 8, 4), (64, 4, 2), (64, 3, 1))  # channels, kernel size and stride


class SamePaddedConv(BaseFeaturesExtractor):
    """
    The convolutions of the Nature DQN with TensorFlow's padding "same", which Dopamine's networks have in TensorFlow and in
    JAX (dopamine/jax/networks.py): 84x84 pixels become 11x11x64 = 7,744 features instead of 7x7x64 = 3,136.

    :param observation_space: channel-first images
    """

    def __init__(self, observation_space: spaces.Box) -> None:
        channels, *sizes = observation_space.shape
        layers: list[nn.Module] = []
        for out_channels, kernel, stride in LAYERS:
            outputs = [-(-size // stride) for size in sizes]
            missing = [max((output - 1) * stride + kernel - size, 0) for size, output in zip(sizes, outputs, strict=True)]
            (top, bottom), (left, right) = ((pad // 2, pad - pad // 2) for pad in missing)
            layers += [nn.ZeroPad2d((left, right, top, bottom)), nn.Conv2d(channels, out_channels, kernel, stride), nn.ReLU()]
            channels, sizes = out_channels, outputs
        super().__init__(observation_space, features_dim=channels * sizes[0] * sizes[1])
        self.convolutions = nn.Sequential(*layers)

    def forward(self, observations: th.Tensor) -> th.Tensor:
        """
        :param observations: shape [B, C, H, W]
        :return: shape [B, features_dim]
        """
        return self.convolutions(observations.contiguous(memory_format=th.channels_last)).flatten(start_dim=1)


class DopamineWeights(BaseCallback):
    """
    Initial weights of Dopamine's JAX agents, without biases: ``variance_scaling(scale=1 / sqrt(3), mode="fan_in",
    distribution="uniform")``, whose limit of sqrt(sqrt(3) / fan_in) is 1.3 times PyTorch's; for DQN, ``xavier_uniform``.

    :param xavier: as for DQN
    """

    model: DQN

    def __init__(self, xavier: bool = False) -> None:
        super().__init__()
        self.xavier = xavier

    def _on_training_start(self) -> None:
        if self.model.num_timesteps > 0:  # an interrupted training goes on
            return
        for layer in self.model.q_net.modules():
            if isinstance(layer, (nn.Linear, nn.Conv2d)):
                limit = (3**0.5 / layer.weight[0].numel()) ** 0.5
                nn.init.xavier_uniform_(layer.weight) if self.xavier else nn.init.uniform_(layer.weight, -limit, limit)
                assert layer.bias is not None
                nn.init.zeros_(layer.bias)
        self.model.q_net_target.load_state_dict(self.model.q_net.state_dict())

    def _on_step(self) -> bool:
        return True


class CrossEntropyRainbow(Rainbow):
    """
    Rainbow with the loss itself, the cross-entropy, as priority, as dopamine/jax/agents/rainbow has it. It exceeds the paper's
    Kullback-Leibler divergence, which Rainbow takes, by the entropy of the target.
    """

    def _categorical_loss(self, *args: th.Tensor) -> Loss:
        loss = super()._categorical_loss(*args)
        return loss._replace(priorities=loss.losses.detach())


class CrossEntropyPriorities(BaseCallback):
    """Makes a Rainbow :class:`CrossEntropyRainbow`, of which ``--algo`` knows nothing; saved models remain Rainbow's."""

    model: Rainbow

    def _on_training_start(self) -> None:
        self.model.__class__ = CrossEntropyRainbow

    def _on_step(self) -> bool:
        return True
