import pytest
import torch as th

from sb3_distrl.functional import gather_actions


def test_values_of_the_actions_against_a_loop():
    values = th.arange(3 * 5 * 4, dtype=th.float32).reshape(3, 5, 4).requires_grad_()  # B, X, A
    actions = [2, 0, 3]
    result = gather_actions(values, th.tensor(actions))
    assert result.shape == (3, 5)
    assert result.tolist() == [[values[b, x, actions[b]].item() for x in range(5)] for b in range(3)]
    result.sum().backward()
    expected = [[[float(a == actions[b]) for a in range(4)] for _ in range(5)] for b in range(3)]
    assert values.grad.tolist() == expected  # no other action learns


def test_as_many_values_as_actions_are_not_confused():
    values = th.tensor([[[1.0, 2.0], [3.0, 4.0]]])
    assert gather_actions(values, th.tensor([1])).tolist() == [[2.0, 4.0]]


def test_actions_must_be_one_for_each_sample():
    with pytest.raises(AssertionError):
        gather_actions(th.zeros(3, 5, 4), th.zeros(3, 1, dtype=th.int64))
