"""
Functions for risk measures, which torch can export to ONNX.

ONNX has no operators for the normal quantile function, ``searchsorted`` and ``cummax``; the export uses other operators.
"""

import math
from collections.abc import Callable, Sequence

import torch as th

CELLS = 2**13  # in tables for numerical inverses

# Rational approximations of the normal quantile function (Wichura 1988, algorithm AS 241, PPND7) in the centre, the tails and
# the far tails: coefficients of numerator and denominator, in ascending order
CENTRE = (3.3871327179, 50.434271938, 159.29113202, 59.109374720), (1.0, 17.895169469, 78.757757664, 67.187563600)
TAIL = (1.4234372777, 2.7568153900, 1.3067284816, 0.17023821103), (1.0, 0.73700164250, 0.12021132975)
FAR_TAIL = (6.6579051150, 3.0812263860, 0.42868294337, 0.017337203997), (1.0, 0.24197894225, 0.012258202635)


def _polynomial(coefficients: Sequence[float], x: th.Tensor) -> th.Tensor:
    result = th.full_like(x, coefficients[-1])
    for coefficient in reversed(coefficients[:-1]):
        result = result * x + coefficient
    return result


def _ratio(coefficients: tuple[Sequence[float], Sequence[float]], x: th.Tensor) -> th.Tensor:
    numerator, denominator = coefficients
    return _polynomial(numerator, x) / _polynomial(denominator, x)


def _normal_quantile_for_onnx(p: th.Tensor) -> th.Tensor:
    q = p - 0.5
    r = th.minimum(p, 1 - p).clamp(min=th.finfo(p.dtype).tiny).log().neg().sqrt()
    tail = th.where(r <= 5, _ratio(TAIL, r - 1.6), _ratio(FAR_TAIL, r - 5))
    return th.where(q.abs() <= 0.425, q * _ratio(CENTRE, 0.180625 - q * q), th.where(q < 0, -tail, tail))


def normal_quantile(p: th.Tensor) -> th.Tensor:
    """Quantile function of the standard normal distribution."""
    return _normal_quantile_for_onnx(p) if th.onnx.is_in_onnx_export() else th.special.ndtri(p)


def normal_cdf(x: th.Tensor) -> th.Tensor:
    """Distribution function of the standard normal distribution."""
    return 0.5 + 0.5 * th.erf(x / math.sqrt(2)) if th.onnx.is_in_onnx_export() else th.special.ndtr(x)


def _ascending_for_onnx(table: th.Tensor) -> th.Tensor:
    for k in range((CELLS + 1).bit_length()):
        table = th.cat([table[: 2**k], th.maximum(table[2**k :], table[: -(2**k)])])  # of the last 2^(k+1) values
    return table


def _cell_for_onnx(table: th.Tensor, values: th.Tensor) -> th.Tensor:
    index = th.zeros_like(values, dtype=th.long)
    step = CELLS // 2
    while step:
        index = th.where(table[index + step] < values, index + step, index)
        step //= 2
    return index + 1


def inverse(increasing: Callable[[th.Tensor], th.Tensor], values: th.Tensor) -> th.Tensor:
    """
    Invert an increasing function of [0, 1] onto itself, by linear interpolation in a table that is finer at both ends.

    The result is exact for values 0 and 1.
    """
    grid = th.linspace(0, math.pi / 2, CELLS + 1, device=values.device, dtype=values.dtype).sin() ** 2
    table = increasing(grid)  # cummax below restores the order, which rounding may break where the function is flat
    if th.onnx.is_in_onnx_export():
        table = _ascending_for_onnx(table)
        index = _cell_for_onnx(table, values)
    else:
        table = table.cummax(dim=0).values
        index = th.searchsorted(table, values.contiguous()).clamp(1, CELLS)
    low, high = table[index - 1], table[index]
    share = ((values - low) / (high - low).clamp(min=th.finfo(values.dtype).tiny)).clamp(0, 1)
    result = grid[index - 1] + share * (grid[index] - grid[index - 1])
    return th.where(values < 1, result, 1.0)
