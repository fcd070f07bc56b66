"""Figures of value distributions; needs matplotlib (the extra ``plots``)."""

from sb3_distrl.plotting.density import plot_distribution
from sb3_distrl.plotting.episode import EpisodeStep, plot_film_strip, record_episode, save_film
from sb3_distrl.plotting.training import ValueDistributionCallback, plot_spread
from sb3_distrl.renamed import renamed

__all__ = [
    "EpisodeStep",
    "ValueDistributionCallback",
    "plot_distribution",
    "plot_film_strip",
    "plot_spread",
    "record_episode",
    "save_film",
]

__getattr__ = renamed(__name__, Moment="EpisodeStep")
