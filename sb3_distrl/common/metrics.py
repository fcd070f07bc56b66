"""Training metrics that stay on the device until they are read."""

from collections import Counter

import torch as th


class RunningMetrics:
    """
    Means of scalars over gradient steps (``*_min``: minima, ``*_max``: maxima), without a transfer from the device in each.
    """

    def __init__(self) -> None:
        self.totals: dict[str, th.Tensor] = {}
        self.counts: Counter[str] = Counter()
        self.count = 0

    def add(self, values: dict[str, th.Tensor]) -> None:
        """Add the scalar tensors of a gradient step."""
        for name, value in values.items():
            value = value.detach()
            if name not in self.totals:
                self.totals[name] = value.clone()  # the next run of a CUDA graph may overwrite its results
            elif name.endswith("_min"):
                self.totals[name] = th.minimum(self.totals[name], value)
            elif name.endswith("_max"):
                self.totals[name] = th.maximum(self.totals[name], value)
            else:
                self.totals[name] += value
        self.counts.update(values.keys())
        self.count += 1

    def values(self) -> dict[str, float]:
        """:return: the metrics of all gradient steps added, in one transfer; empty if there are none"""
        if self.count == 0:
            return {}
        totals = dict(zip(self.totals, th.stack(list(self.totals.values())).tolist(), strict=True))
        return {
            name: total if name.endswith(("_min", "_max")) else total / self.counts[name] for name, total in totals.items()
        }
