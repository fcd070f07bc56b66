"""Checks of arguments, which raise a ValueError with the argument's ``name``, its ``value`` and a ``remedy``."""

import difflib
import os
import warnings
from collections.abc import Iterable
from numbers import Real
from typing import Any

import numpy as np

try:
    import psutil
except ImportError:
    psutil = None

MOST_ALPHA = 10  # beyond, masses overflow


def number(name: str, value: Any, remedy: str) -> float:
    """Accept a number of Python or numpy, or an array or tensor without axes; no string or bool."""
    given = value.item() if getattr(value, "ndim", None) == 0 else value
    if isinstance(given, bool) or not isinstance(given, Real):
        raise ValueError(f"{name}={value!r} must be a number: {remedy}.")
    return given  # type: ignore[return-value]


def whole_number(name: str, value: Any, remedy: str) -> int:
    """Convert a whole number to int; sweeps and files may have 3.0 or 1e6."""
    given = number(name, value, remedy)
    if given % 1 != 0:  # also for infinity
        raise ValueError(f"{name}={value} must be a whole number: {remedy}.")
    return int(given)


def layer_sizes(name: str, sizes: Any) -> list[int]:
    """:return: numbers of units, at least 1, as ints"""
    remedy = "use a list of numbers of units, such as [64, 64]"
    if isinstance(sizes, (str, dict)) or not isinstance(sizes, Iterable):
        raise ValueError(f"{name}={sizes!r} is not a list: {remedy}.")
    layers = [whole_number(name, size, remedy) for size in sizes]
    for size in layers:
        check_at_least(name, size, 1, remedy)
    return layers


def check_at_least(name: str, value: float, low: float, remedy: str) -> None:
    if not number(name, value, remedy) >= low:
        raise ValueError(f"{name}={value} must be at least {low}: {remedy}.")


def check_fraction(name: str, value: float, remedy: str, zero: bool = False) -> None:
    """Check that a number is in (0, 1], or in [0, 1] with ``zero``."""
    given = number(name, value, remedy)
    if not (0 < given <= 1 or (zero and given == 0)):
        raise ValueError(f"{name}={value} must be in {'[0' if zero else '(0'}, 1]: {remedy}.")


def check_alpha(alpha: float, remedy: str) -> None:
    """Check that alpha is in [0, 1]; larger ones, from files of 0.1.0, give a warning."""
    if 1 < number("alpha", alpha, remedy) <= MOST_ALPHA:
        warnings.warn(f"alpha={alpha} above 1 is deprecated: {remedy}.", DeprecationWarning, stacklevel=2)
    else:
        check_fraction("alpha", alpha, remedy, zero=True)


def check_finite(name: str, values: np.ndarray, remedy: str) -> None:
    """Check that values are finite in float32, the type of networks."""
    if values.dtype.kind != "f":
        return
    if values.dtype.itemsize <= 4:
        finite = np.isfinite(values)
    else:
        with np.errstate(over="ignore"):
            finite = np.isfinite(values.astype(np.float32))
    if not finite.all():
        raise ValueError(f"{name}={values[~finite][0]} is not finite in float32: {remedy}.")


def check_shape(name: str, array: np.ndarray, shape: tuple[int, ...]) -> None:
    if array.shape != shape:
        raise ValueError(f"{name} of shape {array.shape} should have shape {shape}.")


def with_env_axis(name: str, array: np.ndarray, n_envs: int, shape: tuple[int, ...], remedy: str) -> np.ndarray:
    """
    Check that an array has an entry of this shape for each environment, and return it in shape [n_envs, *shape].

    Only single numbers are reshaped: VecEnvs give them as [n_envs] or [n_envs, 1]. A single environment may omit the first
    axis, as in SB3.
    """
    if array.shape == (n_envs, *shape):
        return array
    if shape in ((), (1,)):
        fits = array.shape in ((n_envs,), (n_envs, 1)) or (array.shape == () and n_envs == 1)
    else:
        fits = array.shape == shape and n_envs == 1
    if not fits:
        raise ValueError(f"{name} has shape {array.shape} and should have {(n_envs, *shape)}: {remedy}.")
    return array.reshape(n_envs, *shape)


def check_array(name: str, array: np.ndarray, shape: tuple[int | None, ...], dtype: np.dtype) -> None:
    """Check an array's shape (``None`` is any length) and type, and that it is finite."""
    fits = len(array.shape) == len(shape) and all(a == b for a, b in zip(array.shape, shape, strict=True) if b is not None)
    if not fits or array.dtype != dtype:
        raise ValueError(f"{name} of shape {array.shape} and type {array.dtype} should have shape {shape} and type {dtype}.")
    check_finite(name, array, "fix the environment")


def available_memory() -> float:
    """:return: bytes of free memory; without psutil those of the whole machine, or infinity if unknown"""
    if psutil is not None:
        return psutil.virtual_memory().available
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, ValueError, OSError):  # not on Windows
        return float("inf")


def check_memory(name: str, size: int, needed: int, fixed: int, remedy: str) -> None:
    """Check for the bytes that ``size`` needs, of which every size needs ``fixed``; a ``remedy`` begins with a comma."""
    there = available_memory()
    if needed > there:
        fitting = max(0, int(size * (there - fixed) / (needed - fixed)))
        raise ValueError(
            f"{name}={size} needs {needed / 1e9:.1f} GB of memory, but only {there / 1e9:.1f} GB are free: use "
            f"{name}={fitting} or less{remedy}."
        )


def nearest(name: str, names: Iterable[str]) -> str:
    """:return: a question that suggests the most similar name, or an empty string"""
    by_lower_case = {known.lower(): known for known in names}
    matches = difflib.get_close_matches(name.lower(), by_lower_case, n=1)
    return f" Did you mean {by_lower_case[matches[0]]}?" if matches else ""
