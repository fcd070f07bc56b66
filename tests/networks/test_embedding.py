import math

import pytest
import torch as th

from sb3_distrl.networks import QuantileEmbedding


def cosines(taus, n_cos):
    """The embedding's cosines: features that take the positive and the negative part of each."""
    embedding = QuantileEmbedding(n_cos, 2 * n_cos)
    embedding.linear.weight.data = th.cat([th.eye(n_cos), -th.eye(n_cos)])
    embedding.linear.bias.data = th.zeros(2 * n_cos)
    positive, negative = embedding(taus).split(n_cos, dim=-1)
    return positive - negative


@pytest.mark.parametrize(
    ("tau", "expected"),
    [
        (0.0, [1, 1, 1, 1]),
        (1.0, [-1, 1, -1, 1]),
        (0.5, [0, -1, 0, 1]),
        (1 / 3, [0.5, -0.5, -1, -0.5]),
        (0.25, [math.sqrt(0.5), 0, -math.sqrt(0.5), -1]),
    ],
)
def test_cosines_run_from_1_to_n(tau, expected):
    """The paper prints 0 to n - 1, whose first is constant."""
    result = cosines(th.tensor([[tau]]), 4)
    th.testing.assert_close(result, th.tensor([[expected]], dtype=th.float32), rtol=0, atol=1e-6)


def test_fraction_zero_is_the_sum_of_the_weights():
    embedding = QuantileEmbedding(3, 5)
    expected = (embedding.linear.weight.sum(dim=1) + embedding.linear.bias).relu()
    th.testing.assert_close(embedding(th.zeros(1, 1))[0, 0], expected)


def test_against_a_loop():
    th.manual_seed(0)
    embedding = QuantileEmbedding(3, 5)
    taus = th.rand(2, 4)
    result = embedding(taus)
    assert result.shape == (2, 4, 5)
    for b in range(2):
        for n in range(4):
            for j in range(5):
                total = embedding.linear.bias[j].item()
                for i in (1, 2, 3):
                    total += math.cos(math.pi * i * taus[b, n].item()) * embedding.linear.weight[j, i - 1].item()
                assert result[b, n, j].item() == pytest.approx(max(total, 0.0), abs=1e-6)
