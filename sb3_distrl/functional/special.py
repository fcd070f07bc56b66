"""Functions of numbers in [0, 1] that risk measures need."""

import math
from collections.abc import Callable

import torch as th

CELLS = 2**13  # of tables for numerical inverses


def inverse(increasing: Callable[[th.Tensor], th.Tensor], values: th.Tensor) -> th.Tensor:
    """
    Invert a function numerically: by a table of it, closer at both ends of [0, 1], with straight lines between its points.

    :param increasing: function from [0, 1] onto [0, 1]
    :param values: in [0, 1], any shape
    :return: where the function takes them, same shape; 0 and 1 exactly
    """
    grid = th.linspace(0, math.pi / 2, CELLS + 1, device=values.device, dtype=values.dtype).sin() ** 2
    table = increasing(grid).cummax(dim=0).values  # in order, whatever rounding does where the function is flat
    index = th.searchsorted(table, values.contiguous()).clamp(1, CELLS)
    low, high = table[index - 1], table[index]
    share = ((values - low) / (high - low).clamp(min=th.finfo(values.dtype).tiny)).clamp(0, 1)
    result = grid[index - 1] + share * (grid[index] - grid[index - 1])
    return th.where(values < 1, result, 1.0)
