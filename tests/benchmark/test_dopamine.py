"""Dopamine's network is what its framework makes of it, and its priorities are its losses."""

import numpy as np
import pytest
import torch as th
from benchmark.dopamine import CrossEntropyPriorities, DopamineWeights, SamePaddedConv
from gymnasium import spaces

from sb3_distrl import QRDQN, Rainbow
from sb3_distrl.common.algorithm import ValueAlgorithm
from tests.common.batches import hand_made_batch, loss_of
from tests.common.settings import make

SPACE = spaces.Box(0, 255, (4, 84, 84), np.uint8)


def untrained(**kwargs) -> ValueAlgorithm:
    """:return: a model for such images, without an environment"""
    model = QRDQN("CnnPolicy", None, _init_setup_model=False, **kwargs)
    model.observation_space, model.action_space, model.n_envs = SPACE, spaces.Discrete(4), 1
    model._setup_model()
    return model


def test_padding_is_that_of_tensorflow():
    """The padding of "same" is as even as can be, with the odd pixel at the end."""
    network = SamePaddedConv(SPACE)
    assert network.features_dim == 11 * 11 * 64
    # Output i sees inputs from stride i - before: ((21 - 1) 4 + 8 - 84) / 2, ((11 - 1) 2 + 4 - 21) // 2, (11 - 1 + 3 - 11) / 2
    sizes, befores = [84, 21, 11], [2, 1, 1]
    for layer, size, before in zip(range(0, 9, 3), sizes, befores, strict=True):
        pad, conv = network.convolutions[layer], network.convolutions[layer + 1]
        image = th.rand(1, conv.in_channels, size, size)
        output = conv(pad(image))
        assert output.shape[-1] == -(-size // conv.stride[0])
        for i in (0, output.shape[-1] - 1):
            start = i * conv.stride[0] - before
            seen = th.zeros(conv.in_channels, conv.kernel_size[0], conv.kernel_size[0])
            for y in range(seen.shape[1]):
                for x in range(seen.shape[2]):
                    if 0 <= start + y < size and 0 <= start + x < size:
                        seen[:, y, x] = image[0, :, start + y, start + x]
            expected = (conv.weight * seen).sum(dim=(1, 2, 3)) + conv.bias
            th.testing.assert_close(output[0, :, i, i], expected, rtol=1e-4, atol=1e-5)
    images = th.rand(2, 4, 84, 84)
    th.testing.assert_close(network(images), network.convolutions(images).flatten(1), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("xavier", [False, True])
def test_initial_weights(xavier):
    model = untrained(policy_kwargs=dict(features_extractor_class=SamePaddedConv, net_arch=[512]))
    callback = DopamineWeights(xavier)
    callback.init_callback(model)
    callback.on_training_start({}, {})
    layers = [layer for layer in model.q_net.modules() if isinstance(layer, (th.nn.Linear, th.nn.Conv2d))]
    assert len(layers) == 5
    for layer in layers:
        fan_in = layer.weight[0].numel()
        fan_out = layer.weight.numel() // layer.weight.shape[1]
        variance = 2 / (fan_in + fan_out) if xavier else 3**-0.5 / fan_in
        assert layer.weight.var().item() == pytest.approx(variance, rel=0.1)
        assert layer.weight.abs().max().item() <= (3 * variance) ** 0.5 + 1e-6
        assert not layer.bias.any()
    for own, target in zip(model.q_net.parameters(), model.q_net_target.parameters(), strict=True):
        th.testing.assert_close(own, target, rtol=0, atol=0)

    before = [parameter.clone() for parameter in model.q_net.parameters()]
    model.num_timesteps = 1  # goes on
    callback.on_training_start({}, {})
    assert all(th.equal(one, other) for one, other in zip(before, model.q_net.parameters(), strict=True))


def test_priorities(tmp_path):
    model, batch = make(Rainbow), hand_made_batch()
    before = loss_of(model, batch)
    assert (before.losses - before.priorities).min() > 0.5  # the targets' entropies

    seen = []
    update = model.replay_buffer.update_priorities
    model.replay_buffer.update_priorities = lambda indices, priorities: (seen.append(priorities), update(indices, priorities))
    model.learn(100, callback=CrossEntropyPriorities())
    after = loss_of(model, batch)
    th.testing.assert_close(after.priorities, after.losses)
    assert not after.priorities.requires_grad
    assert seen and min(priorities.min() for priorities in seen) > 0.5

    model.save(tmp_path / "model")  # a checkpoint, with which the algorithm's own class goes on
    assert type(Rainbow.load(tmp_path / "model")) is Rainbow
