"""Deprecated names."""

import importlib
import warnings
from collections.abc import Callable
from typing import Any


def renamed(module: str, **names: str) -> Callable[[str], Any]:
    """
    Make a module's ``__getattr__``, which returns what former names stand for, with a DeprecationWarning.

    :param module: name of the module
    :param names: the current name for each former one
    :return: the function
    """

    def __getattr__(name: str) -> Any:
        if name not in names:
            raise AttributeError(f"module {module!r} has no attribute {name!r}")
        current = names[name]
        warnings.warn(f"{module}.{name} is now called {current}: use that name.", DeprecationWarning, stacklevel=2)
        return getattr(importlib.import_module(module), current)

    return __getattr__
