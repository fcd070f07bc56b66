"""What the tests of actors train with."""

import hashlib
from typing import Any

import cloudpickle
from stable_baselines3.common.base_class import BaseAlgorithm

from sb3_distrl.distributed import ApeXIQN, ApeXQRDQN, ApeXRainbow

CLASSES = [ApeXRainbow, ApeXIQN, ApeXQRDQN]
SMALL: dict[str, Any] = dict(
    n_actors=2,
    collector="local",
    learning_starts=60,
    buffer_size=2000,
    batch_size=8,
    block_steps=10,
    replay_ratio=0.25,
    learning_rate=1e-3,
    target_update_interval=40,
    seed=1,
    device="cpu",
)
NETWORKS: dict[type, dict[str, Any]] = {
    ApeXRainbow: dict(net_arch=[16], n_atoms=11, v_min=0.0, v_max=100.0),
    ApeXIQN: dict(net_arch=[16], n_quantiles=4, n_target_quantiles=5, n_eval_quantiles=6),
    ApeXQRDQN: dict(net_arch=[16], n_quantiles=7),
}


def make_model(cls=ApeXRainbow, env="CartPole-v1", policy="MlpPolicy", **kwargs):
    """:return: a small model with actors in this process, unless told otherwise"""
    prioritized = {} if cls is ApeXRainbow else dict(prioritized=True)
    return cls(policy, env, **{**SMALL, **prioritized, "policy_kwargs": NETWORKS[cls], **kwargs})


def digest(model: BaseAlgorithm) -> str:
    """:return: of all parameters"""
    arrays = [value.cpu().numpy().tobytes() for value in model.policy.state_dict().values()]
    return hashlib.md5(b"".join(arrays)).hexdigest()


def spec_of(model, **changes):
    """:return: what the model's actors would be told"""
    model._setup_learn(1000)
    actors = model._start_actors()
    actors.close()
    return cloudpickle.loads(cloudpickle.dumps(actors.spec._replace(**changes)))
