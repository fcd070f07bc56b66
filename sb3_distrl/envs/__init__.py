from sb3_distrl.envs.minatar import register_minatar

__all__ = ["register_minatar"]
