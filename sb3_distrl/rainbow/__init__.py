from sb3_distrl.rainbow.policies import CnnPolicy, MlpPolicy, MultiInputPolicy
from sb3_distrl.rainbow.rainbow import Rainbow

__all__ = ["CnnPolicy", "MlpPolicy", "MultiInputPolicy", "Rainbow"]
