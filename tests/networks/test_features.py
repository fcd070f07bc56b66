import gymnasium
import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from stable_baselines3.common.torch_layers import NatureCNN
from torch import nn

from sb3_distrl import IQN, QRDQN, Rainbow
from sb3_distrl.networks import DataEfficientConv, MinAtarConv, NatureConv


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


def minatar_space(*shape):
    return spaces.Box(0, 1, shape, dtype=bool)


def test_convolutions_of_data_efficient_rainbow():
    """84 -> 16 -> 3, so 3 * 3 * 64 features."""
    conv = DataEfficientConv(image_space(4, 84, 84))
    layers = [module for module in conv.modules() if isinstance(module, nn.Conv2d)]
    sizes = [(layer.in_channels, layer.out_channels, layer.kernel_size, layer.stride) for layer in layers]
    assert sizes == [(4, 32, (5, 5), (5, 5)), (32, 64, (5, 5), (5, 5))]
    assert conv.features_dim == 576
    assert conv(th.rand(2, 4, 84, 84)).shape == (2, 576)


def test_convolution_of_minatar():
    conv = MinAtarConv(minatar_space(7, 10, 10))
    assert conv.features_dim == 16 * 8 * 8
    images = th.rand(2, 7, 10, 10)
    (layer,) = (module for module in conv.modules() if isinstance(module, nn.Conv2d))
    assert th.equal(conv(images), nn.functional.conv2d(images, layer.weight, layer.bias).relu().flatten(1))


@pytest.mark.parametrize(
    ("conv", "space"),
    [(DataEfficientConv, image_space(4, 20, 84)), (MinAtarConv, minatar_space(10, 10, 1))],
)
def test_too_small_observations_are_refused(conv, space):
    with pytest.raises(ValueError, match=r"observation_space of shape .* is too small"):
        conv(space)


def test_observations_that_are_no_images_are_refused():
    with pytest.raises(ValueError, match="is not an image"):
        MinAtarConv(spaces.Box(-1, 1, (4,)))


@pytest.mark.parametrize("algorithm", [Rainbow, IQN, QRDQN])
def test_policies_take_them_and_know_the_hidden_layer(algorithm):
    class Images(gymnasium.Env):
        observation_space = minatar_space(3, 10, 10)
        action_space = spaces.Discrete(2)

    arguments = {} if algorithm is not QRDQN else dict(net_arch=[128])
    model = algorithm("CnnPolicy", Images(), policy_kwargs=dict(features_extractor_class=MinAtarConv, **arguments))
    sizes = {module.weight.shape[0] for module in model.policy.modules() if isinstance(module, nn.Linear)}
    assert 128 in sizes
    action, _ = model.predict(Images.observation_space.sample())
    assert action in (0, 1)
