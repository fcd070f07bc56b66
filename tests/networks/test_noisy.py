import math

import pytest
import torch as th
from torch import nn

from sb3_distrl.networks import Noise, NoisyLinear
from sb3_distrl.networks.noisy import MANY_ROWS

B, N, P, Q = 3, 4, 5, 7  # batch, inner entries, inputs, outputs


def make_layer(seed=0):
    """With sigmas that all differ."""
    th.manual_seed(seed)
    layer = NoisyLinear(P, Q)
    nn.init.uniform_(layer.weight_sigma, 0.1, 1.0)
    nn.init.uniform_(layer.bias_sigma, 0.1, 1.0)
    return layer


def f(x):
    return math.copysign(math.sqrt(abs(x)), x)


def noisy_by_loop(layer, x, e_in, e_out):
    """The output for one x from the noisy weight matrix (Fortunato et al. 2018, equations 9 to 11)."""
    output = []
    for j in range(Q):
        total = layer.bias[j].item() + layer.bias_sigma[j].item() * f(e_out[j])
        for i in range(P):
            weight = layer.weight[j, i].item() + layer.weight_sigma[j, i].item() * f(e_in[i]) * f(e_out[j])
            total += weight * x[i]
        output.append(total)
    return th.tensor(output)


def test_without_noise_it_is_a_linear_layer_of_the_means():
    layer = make_layer()
    linear = nn.Linear(P, Q)
    linear.load_state_dict({"weight": layer.weight, "bias": layer.bias})
    x = th.randn(B, N, P)
    for mode in (True, False):
        layer.train(mode)
        assert th.equal(layer(x, Noise.OFF), linear(x))
        assert th.equal(layer(x), linear(x))


@pytest.mark.parametrize("noise", [Noise.SHARED, Noise.PER_ROW])
def test_noise_does_not_depend_on_training_mode(noise):
    """SB3 acts in eval mode, where a layer that looks at ``self.training`` never explores."""
    layer, x, outputs = make_layer(), th.randn(B, P), []
    for mode in (True, False):
        layer.train(mode)
        th.manual_seed(5)
        outputs.append(layer(x, noise))
        assert not th.allclose(outputs[-1], layer(x))
    assert th.equal(*outputs)


@pytest.mark.parametrize("noise", [Noise.SHARED, Noise.PER_ROW])
def test_every_pass_draws_afresh(noise):
    layer, x = make_layer(), th.randn(B, P)
    outputs = [layer(x, noise) for _ in range(4)]
    for i in range(4):
        for j in range(i):
            assert (outputs[i] != outputs[j]).all()


def test_shared_noise_is_one_draw_for_the_batch():
    layer, x = make_layer(), th.randn(P)
    flat = layer(x.expand(B, P), Noise.SHARED)
    inner = layer(x.expand(B, N, P), Noise.SHARED)
    assert flat.shape == (B, Q) and inner.shape == (B, N, Q)
    th.testing.assert_close(flat, flat[:1].expand(B, Q))
    th.testing.assert_close(inner, inner[:1, :1].expand(B, N, Q))


def test_per_row_noise_differs_between_rows():
    layer, x = make_layer(), th.randn(P)
    output = layer(x.expand(B, P), Noise.PER_ROW)
    for i in range(B):
        for j in range(i):
            assert ((output[i] - output[j]).abs() > 1e-6).all()


def test_per_row_noise_is_shared_by_what_belongs_to_one_row():
    """IQN evaluates a state at many fractions: one state, one draw."""
    layer, x = make_layer(), th.randn(P)
    output = layer(x.expand(B, N, P), Noise.PER_ROW)
    assert output.shape == (B, N, Q)
    th.testing.assert_close(output, output[:, :1].expand(B, N, Q))
    for i in range(B):
        for j in range(i):
            assert ((output[i, 0] - output[j, 0]).abs() > 1e-6).all()


@pytest.mark.parametrize("shape", [(B, P), (B, N, P), (B, N, 2, P)])
def test_per_row_noise_equals_a_noisy_weight_matrix_for_each_row(shape):
    layer, x = make_layer(), th.randn(shape)
    th.manual_seed(6)
    result = layer(x, Noise.PER_ROW).reshape(B, -1, Q)
    th.manual_seed(6)
    e_in, e_out = th.randn(B, P), th.randn(B, Q)
    for b, row in enumerate(x.reshape(B, -1, P)):
        for n, inputs in enumerate(row):
            expected = noisy_by_loop(layer, inputs.tolist(), e_in[b].tolist(), e_out[b].tolist())
            th.testing.assert_close(result[b, n], expected)


@pytest.mark.parametrize("shape", [(B, P), (B, N, P)])
def test_shared_noise_equals_one_noisy_weight_matrix(shape):
    layer, x = make_layer(), th.randn(shape)
    th.manual_seed(7)
    result = layer(x, Noise.SHARED).reshape(-1, Q)
    th.manual_seed(7)
    e_in, e_out = th.randn(P).tolist(), th.randn(Q).tolist()
    for inputs, output in zip(x.reshape(-1, P).tolist(), result, strict=True):
        th.testing.assert_close(output, noisy_by_loop(layer, inputs, e_in, e_out))


@pytest.mark.parametrize(("inputs", "outputs", "noisy_std"), [(16, 3, 0.5), (25, 9, 0.1), (3, 64, 2.0)])
def test_initial_parameters(inputs, outputs, noisy_std):
    layer = NoisyLinear(inputs, outputs, noisy_std)
    sigma = noisy_std / math.sqrt(inputs)
    th.testing.assert_close(layer.weight_sigma.data, th.full((outputs, inputs), sigma))
    th.testing.assert_close(layer.bias_sigma.data, th.full((outputs,), sigma))
    for means in (layer.weight, layer.bias):
        assert means.abs().max() <= 1 / math.sqrt(inputs)
        assert means.std() > 0
    assert {name for name, _ in layer.named_parameters()} == {"weight", "bias", "weight_sigma", "bias_sigma"}


def test_default_noisy_std_is_that_of_the_paper():
    assert NoisyLinear(16, 2).bias_sigma.tolist() == [0.125, 0.125]


def test_distribution_of_the_noise():
    """On a zero input it is f(e_out) sigma_b. f^2 is |e|, with mean sqrt(2 / pi); f^4 is e^2, with mean 1."""
    layer, rows = make_layer(), 20_000
    draws = (layer(th.zeros(rows, P), Noise.PER_ROW) - layer.bias) / layer.bias_sigma  # [rows, Q]
    draws = draws.detach().double()
    standard_error = 1 / math.sqrt(rows * Q)
    assert abs(draws.mean()) < 5 * 0.9 * standard_error
    assert abs((draws**2).mean() - math.sqrt(2 / math.pi)) < 5 * 0.61 * standard_error
    assert abs((draws**4).mean() - 1) < 5 * 1.42 * standard_error
    correlations = th.corrcoef(draws.T) - th.eye(Q)
    assert correlations.abs().max() < 5 / math.sqrt(rows)  # each output has its own


@pytest.mark.parametrize("noise", [Noise.SHARED, Noise.PER_ROW])
def test_gradients_reach_means_and_sigmas(noise):
    layer, x = make_layer(), th.randn(B, P, requires_grad=True)
    layer(x, noise).square().sum().backward()
    for parameter in (*layer.parameters(), x):
        assert (parameter.grad != 0).all()


def test_gradient_of_sigma_is_the_noise():
    layer, x = make_layer(), th.randn(1, P)
    th.manual_seed(8)
    layer(x, Noise.PER_ROW).sum().backward()
    th.manual_seed(8)
    f_in, f_out = (th.tensor([f(e) for e in th.randn(size).tolist()]) for size in (P, Q))
    th.testing.assert_close(layer.bias_sigma.grad, f_out)
    th.testing.assert_close(layer.weight_sigma.grad, th.outer(f_out, f_in * x[0]))


@pytest.mark.parametrize("shape", [(MANY_ROWS + 1, P), (MANY_ROWS // 4 + 1, 4, P)])
def test_the_noisy_matrix_is_the_same_noise(shape):
    """Many rows are multiplied by a noisy matrix, and one row is not."""
    layer, x = make_layer(), th.randn(*shape)
    th.manual_seed(5)
    together = layer(x, Noise.SHARED)
    for b in (0, -1):
        th.manual_seed(5)
        th.testing.assert_close(layer(x[b][None], Noise.SHARED)[0], together[b])
    compiled = th.compile(layer, backend="eager")
    th.manual_seed(5)
    th.testing.assert_close(compiled(x[:2], Noise.SHARED), together[:2])


@pytest.mark.parametrize("rows", [2, MANY_ROWS + 1])
def test_all_parameters_have_the_same_gradients_either_way(rows):
    layer, x = make_layer(), th.randn(rows, P)
    gradients = []
    for many in (False, True):
        layer.zero_grad()
        if many:
            th.manual_seed(5)
            layer(x, Noise.SHARED).square().sum().backward()
        else:
            for row in x:
                th.manual_seed(5)
                layer(row[None], Noise.SHARED).square().sum().backward()
        gradients.append([parameter.grad.clone() for parameter in layer.parameters()])
    for one, other in zip(*gradients, strict=True):
        th.testing.assert_close(one, other, rtol=1e-4, atol=1e-4)
