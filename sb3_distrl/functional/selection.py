"""Choosing and gathering actions."""

import torch as th


def greedy_actions(values: th.Tensor) -> th.Tensor:
    """
    :param values: values of actions, shape [B, A]
    :return: the actions with the largest values, the first of equal ones, shape [B]
    """
    return values.argmax(dim=1)


def gather_actions(values: th.Tensor, actions: th.Tensor) -> th.Tensor:
    """
    :param values: shape [B, X, A]
    :param actions: integers in [0, A), shape [B]
    :return: the values of these actions, shape [B, X]
    """
    assert values.ndim == 3 and actions.shape == values.shape[:1]
    return values.gather(2, actions[:, None, None].expand(-1, values.shape[1], 1)).squeeze(2)
