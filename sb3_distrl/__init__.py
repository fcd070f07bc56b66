"""Rainbow, IQN and prioritized n-step replay for Stable-Baselines3."""

from sb3_distrl.iqn import IQN
from sb3_distrl.qrdqn import QRDQN
from sb3_distrl.rainbow import Rainbow

__version__ = "0.1.0"

__all__ = ["IQN", "QRDQN", "Rainbow"]
