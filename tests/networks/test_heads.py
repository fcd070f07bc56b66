import math

import pytest
import torch as th
from torch import nn

from sb3_distrl.networks import MLP, DuelingHead, Head, Noise, NoisyLinear

B, N, A, Z, F = 2, 3, 4, 5, 6


def test_mlp_is_its_layers_with_activations_between():
    th.manual_seed(0)
    mlp = MLP(F, [7, 8], 3, nn.Tanh, nn.Linear)
    assert [(layer.in_features, layer.out_features) for layer in mlp.layers[::2]] == [(F, 7), (7, 8), (8, 3)]
    x = th.randn(B, F)
    expected = mlp.layers[4](mlp.layers[2](mlp.layers[0](x).tanh()).tanh())
    th.testing.assert_close(mlp(x), expected)
    assert mlp.out_features == 3 and mlp(x).shape == (B, 3)


def test_mlp_without_output_layer_ends_with_the_activation():
    th.manual_seed(0)
    mlp = MLP(F, [7, 8], None, nn.ReLU, nn.Linear)
    x = th.randn(B, F)
    th.testing.assert_close(mlp(x), mlp.layers[2](mlp.layers[0](x).relu()).relu())
    assert mlp.out_features == 8 and mlp(x).shape == (B, 8)


def test_mlp_without_hidden_layers():
    x = th.randn(B, F)
    identity = MLP(F, [], None, nn.ReLU, nn.Linear)
    assert th.equal(identity(x), x) and identity.out_features == F
    linear = MLP(F, [], 3, nn.ReLU, nn.Linear)
    assert th.equal(linear(x), linear.layers[0](x)) and (linear(x) < 0).any()


@pytest.mark.parametrize("noise", [Noise.SHARED, Noise.PER_ROW])
def test_mlp_passes_the_noise_to_every_noisy_layer(noise):
    th.manual_seed(0)
    mlp = MLP(F, [7, 8], 3, nn.ReLU, NoisyLinear)
    x = th.randn(F).expand(B, F)
    noisy, mean = mlp(x, noise), mlp(x)
    assert (noisy != mean).any()
    assert th.equal(mean, mlp(x, Noise.OFF))
    assert th.allclose(noisy[0], noisy[1]) == (noise is Noise.SHARED)
    noisy.square().sum().backward()
    for layer in mlp.layers[::2]:
        assert layer.weight_sigma.grad is not None and layer.weight_sigma.grad.any()


@pytest.mark.parametrize("noise", list(Noise))
@pytest.mark.parametrize("head_class", [Head, DuelingHead])
@pytest.mark.parametrize("linear", [nn.Linear, NoisyLinear])
@pytest.mark.parametrize("hidden", [[], [7]])
def test_shapes(noise, head_class, linear, hidden):
    head = head_class(F, hidden, A, Z, nn.ReLU, linear)
    assert head(th.randn(B, F), noise).shape == (B, A, Z)
    assert head(th.randn(B, N, F), noise).shape == (B, N, A, Z)


def test_plain_head_is_its_stream():
    head = Head(F, [7], A, Z, nn.ReLU, nn.Linear)
    x = th.randn(B, F)
    flat, output = head.stream(x), head(x)
    for b in range(B):
        for a in range(A):
            for z in range(Z):
                assert output[b, a, z] == flat[b, a * Z + z]


def test_dueling_head_against_a_loop():
    head = DuelingHead(F, [7], A, Z, nn.ReLU, nn.Linear)
    x = th.randn(B, N, F)
    output = head(x)
    advantages = head.stream(x).reshape(B, N, A, Z).tolist()
    values = head.value_stream(x).tolist()
    assert head.value_stream.out_features == Z
    for b in range(B):
        for n in range(N):
            for z in range(Z):
                mean = sum(advantages[b][n][a][z] for a in range(A)) / A
                for a in range(A):
                    expected = values[b][n][z] + advantages[b][n][a][z] - mean
                    assert output[b, n, a, z].item() == pytest.approx(expected, abs=1e-5)


def test_mean_over_actions_of_the_dueling_head_is_the_value():
    head = DuelingHead(F, [7], A, 1, nn.ReLU, nn.Linear)
    x = th.randn(B, F)
    th.testing.assert_close(head(x).mean(dim=1), head.value_stream(x))


def test_dueling_head_aggregates_logits_before_the_softmax():
    """Biases chosen so that the distributions are known; distributions aggregated after a softmax would differ."""
    head = DuelingHead(F, [], 2, 3, nn.ReLU, nn.Linear)
    for parameter in head.parameters():
        nn.init.zeros_(parameter)
    head.value_stream.layers[0].bias.data = th.tensor([math.log(1.0), math.log(2.0), math.log(3.0)])
    head.stream.layers[0].bias.data = th.tensor([math.log(4.0), 0.0, 0.0, 0.0, 0.0, math.log(9.0)])
    logits = head(th.zeros(1, F))
    # Mean advantages: log 2, 0, log 3. Exponents of the logits: 1 * 4 / 2, 2, 3 / 3 and 1 / 2, 2, 3 * 9 / 3
    expected = th.tensor([[2.0, 2.0, 1.0], [0.5, 2.0, 9.0]])
    th.testing.assert_close(logits.exp(), expected[None])
    th.testing.assert_close(logits.softmax(dim=-1), (expected / expected.sum(dim=1, keepdim=True))[None])


def test_streams_of_a_dueling_head_have_hidden_layers_and_noise_of_their_own():
    th.manual_seed(1)
    head = DuelingHead(F, [7], A, Z, nn.ReLU, NoisyLinear)
    x = th.randn(B, F)
    mean = head(x)
    assert th.equal(mean, head(x, Noise.OFF))
    for stream in (head.stream, head.value_stream):
        assert [type(layer) for layer in stream.layers] == [NoisyLinear, nn.ReLU, NoisyLinear]
        head.zero_grad()
        head(x, Noise.SHARED).square().sum().backward()
        for layer in stream.layers[::2]:
            assert layer.weight_sigma.grad.any() and layer.bias_sigma.grad.any()
