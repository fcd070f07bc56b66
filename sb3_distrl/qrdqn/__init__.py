from sb3_distrl.qrdqn.policies import CnnPolicy, MlpPolicy, MultiInputPolicy
from sb3_distrl.qrdqn.qrdqn import QRDQN

__all__ = ["QRDQN", "CnnPolicy", "MlpPolicy", "MultiInputPolicy"]
