import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from stable_baselines3.common.torch_layers import NatureCNN
from torch import nn

from sb3_distrl.networks import NatureConv


def image_space(*shape):
    return spaces.Box(0, 255, shape, dtype=np.uint8)


@pytest.mark.parametrize(
    ("shape", "features"),
    [((4, 84, 84), 64 * 7 * 7), ((3, 44, 60), 64 * 2 * 4), ((1, 36, 36), 64)],
)
def test_features_are_the_convolutions_alone(shape, features):
    conv = NatureConv(image_space(*shape))
    assert conv.features_dim == features
    assert conv(th.rand(2, *shape)).shape == (2, features)
    assert not any(isinstance(module, nn.Linear) for module in conv.modules())


def test_convolutions_are_those_of_sb3():
    space = image_space(4, 84, 84)
    conv, sb3 = NatureConv(space), NatureCNN(space)
    expected = {name: tensor for name, tensor in sb3.state_dict().items() if name.startswith("cnn.")}
    assert {name: tensor.shape for name, tensor in conv.state_dict().items()} == {
        name: tensor.shape for name, tensor in expected.items()
    }
    conv.load_state_dict(expected)
    images = th.rand(2, 4, 84, 84)
    assert th.equal(conv(images), sb3.cnn(images))


def test_normalized_images():
    space = spaces.Box(0.0, 1.0, (1, 36, 36), dtype=np.float32)
    assert NatureConv(space, normalized_image=True)(th.rand(3, 1, 36, 36)).shape == (3, 64)
