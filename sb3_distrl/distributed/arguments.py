"""Checks of Ape-X's own arguments."""

from __future__ import annotations

import importlib.util
from typing import TYPE_CHECKING

from sb3_distrl.buffers import PrioritizedReplayBuffer
from sb3_distrl.distributed.envs import ActorEnvs
from sb3_distrl.validation import check_at_least, check_fraction, number, whole_number

if TYPE_CHECKING:
    from sb3_distrl.distributed.apex import ApeX

COLLECTORS = ("ray", "local")


def check_arguments(model: ApeX) -> None:
    """
    :raises ValueError: naming the argument, its value and the remedy
    :raises ImportError: if Ray is needed but not installed
    """
    for name, low, remedy in (
        ("n_actors", 1, "use the number of processes that step environments"),
        ("envs_per_actor", 1, "use 1"),
        ("block_steps", 1, "the paper's is 50"),
        ("weights_interval", 1, "use a number of gradient steps"),
        ("tolerance", 0, "use a number of transitions"),
        ("max_failures", 0, "use a number of failures, such as 5"),
    ):
        if getattr(model, name) is not None:
            check_at_least(name, getattr(model, name), low, remedy)
            setattr(model, name, whole_number(name, getattr(model, name), remedy))
    check_fraction("actor_epsilon", model.actor_epsilon, "the paper's is 0.4", zero=True)
    check_at_least("actor_epsilon_alpha", model.actor_epsilon_alpha, 0, "the paper's is 7")
    for name in ("cpus_per_actor", "failure_window", "hang_timeout", "stall_timeout"):
        if not number(name, getattr(model, name), "use e.g. the default") > 0:
            raise ValueError(f"{name}={getattr(model, name)} must be positive: use e.g. the default.")
    if model.collector not in COLLECTORS:
        raise ValueError(f"collector={model.collector!r} is unknown: use one of {', '.join(COLLECTORS)}.")
    if model.collector == "ray" and importlib.util.find_spec("ray") is None:
        raise ImportError("Ray is not installed: pip install 'sb3-distrl[ray]', or use collector='local'.")
    if model.env is not None and not isinstance(model.env, ActorEnvs):
        raise ValueError(f"env={model.env} cannot be stepped by actors: use an environment ID, or a function that makes it.")
    if model.replay_buffer_class is not None and not issubclass(model.replay_buffer_class, PrioritizedReplayBuffer):
        raise ValueError(
            f"replay_buffer_class={model.replay_buffer_class.__name__} does not accept blocks: use None for this library's."
        )
    least = model.n_envs * max(model.block_steps, model.n_steps + 1)
    check_at_least("buffer_size", model.buffer_size, least, "use one that holds a block of each actor")


def ratio_without_actors(train_freq: int | tuple[int, str], gradient_steps: int) -> float:
    """:return: the algorithm's gradient steps per transition with one environment; ``train_freq`` must count steps"""
    freq, unit = train_freq if isinstance(train_freq, tuple) else (train_freq, "step")
    if unit != "step":
        raise ValueError(f"train_freq={train_freq} cannot be used with actors: use replay_ratio, or count steps.")
    return gradient_steps / freq if gradient_steps >= 0 else 1.0
