"""Former names of what has another name now."""

import warnings
from collections.abc import Callable
from typing import Any


def renamed(module: str, **names: Any) -> Callable[[str], Any]:
    """
    :param module: whose ``__getattr__`` this is
    :param names: what former names stand for
    :return: a function that gives it, with a DeprecationWarning of the name to use
    """

    def __getattr__(name: str) -> Any:
        if name not in names:
            raise AttributeError(f"module {module!r} has no attribute {name!r}")
        current = names[name]
        warnings.warn(f"{module}.{name} is now called {current}: use that name.", DeprecationWarning, stacklevel=2)
        return getattr(__import__(module, fromlist=[current]), current)

    return __getattr__
