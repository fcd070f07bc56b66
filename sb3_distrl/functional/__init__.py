from sb3_distrl.functional.categorical import clipped_mass, cross_entropy, entropy, project_categorical
from sb3_distrl.functional.quantile import quantile_huber_loss, quantile_midpoints

__all__ = ["clipped_mass", "cross_entropy", "entropy", "project_categorical", "quantile_huber_loss", "quantile_midpoints"]
