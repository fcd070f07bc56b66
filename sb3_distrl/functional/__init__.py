from sb3_distrl.functional.categorical import clipped_mass, cross_entropy, entropy, project_categorical
from sb3_distrl.functional.quantile import quantile_huber_loss, quantile_midpoints
from sb3_distrl.functional.risk import CPW, MEAN, CVaR, Distortion, Mean, Norm, Power, Wang, as_distortion
from sb3_distrl.functional.selection import gather_actions, greedy_actions
from sb3_distrl.renamed import renamed

__all__ = [
    "CPW",
    "MEAN",
    "CVaR",
    "Distortion",
    "Mean",
    "Norm",
    "Power",
    "Wang",
    "as_distortion",
    "clipped_mass",
    "cross_entropy",
    "entropy",
    "gather_actions",
    "greedy_actions",
    "project_categorical",
    "quantile_huber_loss",
    "quantile_midpoints",
]

__getattr__ = renamed(__name__, of_actions="gather_actions")
