from sb3_distrl.envs.atari import AtariVecEnv
from sb3_distrl.envs.minatar import register_minatar
from sb3_distrl.envs.risky import RiskyCrossing

__all__ = ["AtariVecEnv", "RiskyCrossing", "register_minatar"]
