"""Training metrics that wait on the device until somebody reads them."""

import torch as th


class RunningMeans:
    """Means of scalars over gradient steps, without a transfer from the device on each."""

    def __init__(self) -> None:
        self.sums: dict[str, th.Tensor] = {}
        self.count = 0

    def add(self, values: dict[str, th.Tensor]) -> None:
        """
        :param values: one scalar tensor for each name, the same names on each gradient step
        """
        for name, value in values.items():
            self.sums[name] = self.sums[name] + value.detach() if name in self.sums else value.detach()
        self.count += 1

    def means(self) -> dict[str, float]:
        """
        :return: the means of all that was added, empty if nothing was; one transfer for all
        """
        if self.count == 0:
            return {}
        means = (th.stack(list(self.sums.values())) / self.count).tolist()
        return dict(zip(self.sums, means, strict=True))
