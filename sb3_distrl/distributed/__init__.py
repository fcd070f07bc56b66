from sb3_distrl.distributed.apex import ApeX, ApeXIQN, ApeXQRDQN, ApeXRainbow

__all__ = ["ApeX", "ApeXIQN", "ApeXQRDQN", "ApeXRainbow"]
