"""Checks of what users pass in; each message names the argument, its value and a remedy."""

import numpy as np


def check_at_least(name: str, value: float, low: float, remedy: str) -> None:
    """
    :param name: the argument
    :param value: what the user gave
    :param low: the smallest allowed value
    :param remedy: what to do instead
    :raises ValueError: if the value is lower, or not a number
    """
    if not value >= low:
        raise ValueError(f"{name}={value} must be at least {low}: {remedy}.")


def check_fraction(name: str, value: float, remedy: str, zero: bool = False) -> None:
    """
    :param name: the argument
    :param value: what the user gave
    :param remedy: what to do instead
    :param zero: whether 0 is allowed; 1 always is
    :raises ValueError: if the value is not in (0, 1], or [0, 1]
    """
    if not (0 < value <= 1 or (zero and value == 0)):
        raise ValueError(f"{name}={value} must be in {'[0' if zero else '(0'}, 1]: {remedy}.")


def check_finite(name: str, values: np.ndarray, remedy: str) -> None:
    """
    :param name: what the values are
    :param values: any shape
    :param remedy: what to do
    :raises ValueError: if any value is not a number, or infinite as float32, in which networks compute
    """
    if not np.issubdtype(values.dtype, np.floating):
        return
    with np.errstate(over="ignore"):
        finite = np.isfinite(values.astype(np.float32, copy=False))
    if not finite.all():
        raise ValueError(f"{name}={values[~finite][0]} is not finite in float32: {remedy}.")
