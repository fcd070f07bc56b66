"""Pictures of value distributions; needs matplotlib (the extra ``plots``)."""

from sb3_distrl.plotting.distribution import plot_distribution
from sb3_distrl.plotting.episode import Moment, plot_film_strip, record_episode, save_film
from sb3_distrl.plotting.training import ValueDistributionCallback, plot_spread

__all__ = [
    "Moment",
    "ValueDistributionCallback",
    "plot_distribution",
    "plot_film_strip",
    "plot_spread",
    "record_episode",
    "save_film",
]
