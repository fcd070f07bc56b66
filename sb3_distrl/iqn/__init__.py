from sb3_distrl.iqn.iqn import IQN
from sb3_distrl.iqn.policies import CnnPolicy, MlpPolicy, MultiInputPolicy

__all__ = ["IQN", "CnnPolicy", "MlpPolicy", "MultiInputPolicy"]
