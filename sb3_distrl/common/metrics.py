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

    def pop(self) -> dict[str, float]:
        """
        :return: the means since the last call, empty if nothing was added; one transfer for all
        """
        if self.count == 0:
            return {}
        means = (th.stack(list(self.sums.values())) / self.count).tolist()
        names = list(self.sums)
        self.__init__()  # type: ignore[misc]
        return dict(zip(names, means, strict=True))
