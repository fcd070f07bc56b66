"""Changes of the distributions of returns during training."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.logger import Figure as LoggedFigure

from sb3_distrl.common.algorithm import ValueAlgorithm
from sb3_distrl.common.distribution import ValueDistribution
from sb3_distrl.plotting.density import FONT, check_single, color_of, names_of, plot_distribution
from sb3_distrl.validation import check_at_least

FAN = np.array([0.05, 0.25, 0.5, 0.75, 0.95])
NO_FIGURES = ("stdout", "log", "json", "csv")


class ValueDistributionCallback(BaseCallback):
    """
    Log the distributions of returns for fixed observations.

    ``distribution/spread`` and ``distribution/mean`` are the standard deviation and mean of the return after the greedy
    action, averaged over the observations; ``distribution/figure``, for TensorBoard, shows the first observation. ``steps``
    and ``distributions`` keep the logs of the first observation for :func:`plot_spread`.

    :param freq: environment steps, over all environments, between logs
    :param observations: a batch of observations, as for ``predict``; by default the first ones of training
    :param action_names: a name for each action
    :param verbose: as in SB3
    :raises ValueError: if ``freq`` is below 1, or, when training starts, if the model has no distributions
    """

    model: ValueAlgorithm

    def __init__(
        self, freq: int, observations: Any = None, action_names: Sequence[str] | None = None, verbose: int = 0
    ) -> None:
        super().__init__(verbose)
        check_at_least("freq", freq, 1, "use a number of environment steps")
        self.freq, self.observations, self.action_names = freq, observations, action_names
        self.steps: list[int] = []
        self.distributions: list[ValueDistribution] = []

    def _init_callback(self) -> None:
        if not isinstance(self.model, ValueAlgorithm):
            raise ValueError(f"model={type(self.model).__name__} has no distributions: use Rainbow, IQN or QRDQN.")

    def _on_training_start(self) -> None:
        if self.observations is None:
            last = self.model._last_obs
            assert last is not None
            # Copied before the first step; normalized like all of the policy's observations
            self.observations = {key: value.copy() for key, value in last.items()} if isinstance(last, dict) else last.copy()
        self._log()

    def _on_step(self) -> bool:
        if self.num_timesteps - self.steps[-1] >= self.freq:
            self._log()
        return True

    def _log(self) -> None:
        distributions = self.model.predict_distribution(self.observations)
        greedy = distributions.risk(self.model.risk).argmax(axis=-1)[:, None]
        for name, values in dict(spread=distributions.std(), mean=distributions.mean()).items():
            self.logger.record(f"distribution/{name}", float(np.take_along_axis(values, greedy, axis=1).mean()))
        first = ValueDistribution(distributions.values[0], distributions.probabilities[0])
        figure = plot_distribution(first, self.action_names, int(greedy[0, 0]), f"{self.num_timesteps:,} steps")
        self.logger.record("distribution/figure", LoggedFigure(figure, close=True), exclude=NO_FIGURES)
        self.steps.append(self.num_timesteps)
        self.distributions.append(first)


def plot_spread(
    steps: Sequence[int], distributions: Sequence[ValueDistribution], action_names: Sequence[str] | None = None
) -> Figure:
    """
    Draw how the distributions in a state change during training: for each action the median, and the central ranges with 50%
    and 90% of the returns.

    :param steps: environment steps, from :class:`ValueDistributionCallback`
    :param distributions: the distribution of one state after each of these steps, values of shape [A, Z]
    :param action_names: a name for each action
    :return: a figure, to save with ``savefig``
    :raises ValueError: without distributions, or if the numbers of steps and distributions differ
    """
    if not distributions or len(steps) != len(distributions):
        raise ValueError(
            f"steps has {len(steps)} and distributions {len(distributions)} elements: use equal numbers, at least one."
        )
    check_single(distributions[0])
    names = names_of(len(distributions[0].values), action_names)
    fan = np.stack([each.quantile(FAN) for each in distributions])  # [T, A, 5]
    n_columns = math.ceil(math.sqrt(len(names)))
    n_rows = -(-len(names) // n_columns)
    figure = Figure(figsize=(1.0 + 2.9 * n_columns, 0.6 + 2.4 * n_rows), layout="constrained")
    axes = figure.subplots(n_rows, n_columns, sharex=True, sharey=True, squeeze=False).flatten()
    for action, ax in enumerate(axes):
        if action >= len(names):
            ax.axis("off")
            continue
        color, (p5, p25, median, p75, p95) = color_of(action), fan[:, action].T
        ax.fill_between(steps, p5, p95, color=color, alpha=0.25, lw=0)
        ax.fill_between(steps, p25, p75, color=color, alpha=0.5, lw=0)
        ax.plot(steps, median, color="black", lw=2)
        ax.set_title(names[action], fontsize=FONT, color=color)
        ax.tick_params(labelsize=FONT - 3)
        ax.grid(alpha=0.3)
    figure.supxlabel("environment steps", fontsize=FONT)
    figure.supylabel("return: median, 50%, 90%", fontsize=FONT)
    return figure
