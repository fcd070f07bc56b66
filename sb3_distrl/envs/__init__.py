from sb3_distrl.envs.atari import AtariVecEnv
from sb3_distrl.envs.minatar import register_minatar

__all__ = ["AtariVecEnv", "register_minatar"]
