"""An algorithm's replay buffer: how it is created and checked."""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING, Any

from gymnasium import spaces
from stable_baselines3.common.buffers import ReplayBuffer
from stable_baselines3.common.preprocessing import is_image_space

from sb3_distrl.buffers import PrioritizedDictReplayBuffer, PrioritizedReplayBuffer, SumTree

if TYPE_CHECKING:
    from sb3_distrl.common.algorithm import ValueAlgorithm


def make_replay_buffer(model: ValueAlgorithm) -> None:
    """Create this library's replay buffer with the model's settings, unless it has one, or uses one of SB3's."""
    space, frames_once = model.observation_space, model.optimize_memory_usage
    if model.replay_buffer_class is None:
        own = PrioritizedDictReplayBuffer if isinstance(space, spaces.Dict) else PrioritizedReplayBuffer
        model.replay_buffer_class = own
    if model.replay_buffer is None and issubclass(model.replay_buffer_class, PrioritizedReplayBuffer):
        model.replay_buffer = model.replay_buffer_class(
            model.buffer_size,
            space,
            model.action_space,
            device=model.device,
            n_envs=model.n_envs,
            optimize_memory_usage=has_images(space) if frames_once is None else frames_once,
            **{**model.buffer_settings(), **model.replay_buffer_kwargs},
        )


def has_images(space: spaces.Space) -> bool:
    """:return: whether observations are, or contain, images"""
    return any(is_image_space(part) for part in (space.values() if isinstance(space, spaces.Dict) else [space]))


def check_priorities(model: ValueAlgorithm, buffer_class: type[ReplayBuffer]) -> None:
    """:raises ValueError: if the algorithm needs priorities, and the buffer has none"""
    if model.prioritized and not hasattr(buffer_class, "update_priorities"):
        raise ValueError(
            f"replay_buffer_class={buffer_class.__name__} has no priorities: use prioritized=False, or "
            "replay_buffer_class=None for this library's buffer."
        )


def check_buffer_settings(model: ValueAlgorithm, buffer_class: type[ReplayBuffer]) -> None:
    """
    Check the user's buffer class and its arguments. Buffers of other libraries must be told n_steps and gamma by the user.

    :raises ValueError: if the buffer's returns would differ from the algorithm's, or a setting would have no effect
    """
    if "beta" in model.replay_buffer_kwargs:
        raise ValueError(
            f"replay_buffer_kwargs has beta={model.replay_buffer_kwargs['beta']}, but the algorithm schedules beta: "
            "set beta_initial and beta_final instead."
        )
    own, settings = issubclass(buffer_class, PrioritizedReplayBuffer), model.buffer_settings()
    told = settings
    if not own:
        settings = dict(n_steps=model.n_steps, gamma=model.gamma)
        parameters = inspect.signature(buffer_class).parameters
        defaults = {name: parameters[name].default for name in settings if name in parameters}
        told = {"n_steps": 1, "gamma": model.gamma, **defaults}
    for name, value in settings.items():
        if model.replay_buffer_kwargs.get(name, told[name]) != value:
            remedy = f"use replay_buffer_class=None for ours, or set the same {name} in replay_buffer_kwargs"
            if own:
                remedy = f"leave {name} out of replay_buffer_kwargs"
            elif name not in parameters:  # e.g. SB3's HerReplayBuffer; passing it would be a TypeError
                remedy = f"use replay_buffer_class=None for ours, or {name}={told[name]}"
            raise ValueError(f"{name}={value} is not known to replay_buffer_class={buffer_class.__name__}: {remedy}.")


def check_replay_buffer(model: ValueAlgorithm, buffer: ReplayBuffer) -> None:
    """
    :raises ValueError: if the buffer, which may have been loaded, does not match the model and its environments, or does not
        fit into memory
    """
    check_priorities(model, type(buffer))
    if buffer.n_envs != model.n_envs:
        raise ValueError(
            f"The replay buffer has n_envs={buffer.n_envs}, the environment {model.n_envs}: load the model "
            "with as many environments as filled the buffer, or train with a new buffer."
        )
    if isinstance(buffer, PrioritizedReplayBuffer):
        for name, value in model.buffer_settings().items():
            if getattr(buffer, name) != value:
                raise ValueError(
                    f"{name}={value} differs from the replay buffer's {getattr(buffer, name)}: load the model with "
                    f"the settings that the buffer was filled with, e.g. load(path, {name}={getattr(buffer, name)}), or train "
                    "with a new buffer."
                )
        buffer.check_memory()
        SumTree.prepare()


def arguments_of(given: dict[str, Any], *buffers: Any) -> dict[str, list[Any]]:
    """
    :param given: arguments of an algorithm
    :return: each buffer's values of the given arguments that concern replay buffers
    """
    names = ["optimize_memory_usage"] if given.get("optimize_memory_usage") is not None else []
    names += [name for name in given.get("replay_buffer_kwargs") or {} if hasattr(buffers[0], name)]
    values = {name: [getattr(buffer, name, None) for buffer in buffers] for name in names}
    if given.get("buffer_size") is not None:
        values["buffer_size"] = [buffer.buffer_size * buffer.n_envs for buffer in buffers]
    if given.get("replay_buffer_class") is not None:
        values["replay_buffer_class"] = [type(buffer).__name__ for buffer in buffers]
    return values
