"""Densities of the return after each action, in one state."""

from collections.abc import Iterable, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from sb3_distrl.common.distribution import ValueDistribution

# Okabe & Ito 2008; distinguishable for colour-blind people
COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
FONT = 13  # points; legible at half the figure's size
SMOOTHING = 0.012  # densities are averaged over twice this share of the axis
HIDDEN_TAIL = 1e-3  # probability at each end of a distribution that the axis may cut off
POINTS = 400


def color_of(action: int) -> str:
    """:return: the colour of an action; with more than six actions, colours repeat"""
    return COLORS[action % len(COLORS)]


def names_of(n_actions: int, action_names: Sequence[str] | None) -> list[str]:
    """:return: a name for each action, by default "action 0" and so on"""
    if action_names is None:
        return [f"action {action}" for action in range(n_actions)]
    if len(action_names) != n_actions:
        raise ValueError(f"action_names={list(action_names)} must be {n_actions} names, one for each action.")
    return list(action_names)


def check_single(distribution: ValueDistribution) -> None:
    """:raises ValueError: if the distribution is not that of a single state"""
    if distribution.values.ndim != 2:
        raise ValueError(
            f"distribution has values of shape {distribution.values.shape}, but must be that of one state, "
            "[actions, atoms]: predict it for a single observation."
        )


def limits_of(distributions: Iterable[ValueDistribution]) -> tuple[float, float]:
    """:return: a range of returns that shows all distributions but the ends of their tails"""
    shown = []
    for each in distributions:
        probabilities = each.probabilities.astype(np.float64)
        up_to, from_on = probabilities.cumsum(axis=-1), probabilities[..., ::-1].cumsum(axis=-1)[..., ::-1]
        shown.append(each.values[(up_to > HIDDEN_TAIL) & (from_on > HIDDEN_TAIL)])
    low, high = min(float(each.min()) for each in shown), max(float(each.max()) for each in shown)
    margin = 0.06 * (high - low) or 1.0
    return low - margin, high + margin


def density_of(values: np.ndarray, probabilities: np.ndarray, x: np.ndarray, width: float) -> np.ndarray:
    """:return: density of ascending atoms [Z], spread halfway to their neighbours, averaged over x [X] +- width"""
    edges = np.concatenate([values[:1], (values[:-1] + values[1:]) / 2, values[-1:]])
    edges += 1e-9 * np.arange(len(edges)) * width  # keeps the edges of equal atoms in ascending order
    cumulative = np.concatenate([[0.0], probabilities.cumsum()])
    return (np.interp(x + width, edges, cumulative) - np.interp(x - width, edges, cumulative)) / (2 * width)


def draw_rows(
    axes: Sequence[Axes],
    distribution: ValueDistribution,
    names: Sequence[str] | None,
    limits: tuple[float, float],
    chosen: int | None,
) -> None:
    """Clear the axes, one for each action, and draw the distribution of one state; ``names=None`` draws no names."""
    x = np.linspace(*limits, POINTS)
    width = SMOOTHING * (limits[1] - limits[0])
    means = distribution.mean()
    for action, ax in enumerate(axes):
        values, probabilities = distribution.values[action], distribution.probabilities[action]
        density = density_of(values, probabilities, x, width)
        density /= density.max()
        color, is_chosen = color_of(action), action == chosen
        ax.clear()
        ax.fill_between(x, density, color=color, alpha=0.85 if is_chosen or chosen is None else 0.45, lw=0)
        ax.axvline(means[action], color="black", lw=2.2 if is_chosen else 1.4)
        ax.set(xlim=limits, ylim=(0, 1.12), yticks=[])
        ax.spines[["top", "left", "right"]].set_visible(False)
        ax.tick_params(labelsize=FONT - 2, labelbottom=action == len(axes) - 1)
        if names is not None:
            label = f"\u25b6 {names[action]}" if is_chosen else names[action]
            weight = "bold" if is_chosen else "normal"
            ax.set_ylabel(label, rotation=0, ha="right", va="center", fontsize=FONT, fontweight=weight, color=color)


def plot_distribution(
    distribution: ValueDistribution, action_names: Sequence[str] | None = None, chosen: int | None = None, title: str = ""
) -> Figure:
    """
    Draw the distribution of the return after each action, with its mean as a black line.

    Each atom is spread halfway to its neighbours, and the density is averaged over 2.4% of the axis. All curves have the same
    height, so areas cannot be compared.

    :param distribution: distribution of one state, values of shape [A, Z], from ``model.predict_distribution``
    :param action_names: a name for each action
    :param chosen: action to mark as the one taken
    :param title: title of the figure
    :return: a figure, to save with ``savefig``
    :raises ValueError: for distributions of several states, or if the number of names is not the number of actions
    """
    check_single(distribution)
    names = names_of(len(distribution.values), action_names)
    figure = Figure(figsize=(6.0, 1.0 + 0.85 * len(names)), layout="constrained")
    axes = list(figure.subplots(len(names), 1, squeeze=False)[:, 0])
    draw_rows(axes, distribution, names, limits_of([distribution]), chosen)
    axes[-1].set_xlabel("return from here on; black: its mean", fontsize=FONT)
    if title:
        figure.suptitle(title, fontsize=FONT + 1)
    return figure
