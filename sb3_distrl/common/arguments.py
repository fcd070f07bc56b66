"""Checks of the algorithms' arguments and spaces."""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING, Any

import numpy as np
from gymnasium import spaces
from gymnasium.vector import VectorEnv
from stable_baselines3.common.policies import BasePolicy
from stable_baselines3.common.preprocessing import is_image_space
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor, CombinedExtractor, NatureCNN
from stable_baselines3.common.type_aliases import TrainFreq

from sb3_distrl.buffers import PrioritizedReplayBuffer
from sb3_distrl.common.acceleration import check_acceleration
from sb3_distrl.common.policies import ValuePolicy
from sb3_distrl.common.replay import check_buffer_settings, check_priorities
from sb3_distrl.networks import NATURE_SIDE, NatureConv
from sb3_distrl.validation import check_alpha, check_at_least, check_fraction, layer_sizes, number, whole_number

if TYPE_CHECKING:
    from sb3_distrl.common.algorithm import ValueAlgorithm


WHOLE_NUMBERS = {
    "n_steps": "use 1 for one-step returns",
    "batch_size": "use e.g. 32",
    "buffer_size": "use a number of transitions",
    "learning_starts": "use a number of environment steps",
    "gradient_steps": "use e.g. 1, or replay_ratio for gradient steps per transition",
    "target_update_interval": "use a number of environment steps",
}
FREQUENCY = "use a number of vectorised steps, or a tuple such as (1, 'episode')"
LEARNING_RATE = "use e.g. 1e-4, or a function of the remaining progress"
TRANSFORM_ACTION = (
    "gymnasium.wrappers.TransformAction(env, lambda action: action + {start}, gymnasium.spaces.Discrete({n}))"  # n actions
)


def check_spaces(observation_space: spaces.Space, action_space: spaces.Space) -> None:
    """:raises ValueError: for actions that value-based algorithms, or observations that networks do not support"""
    if not isinstance(action_space, spaces.Discrete):
        raise ValueError(
            f"env has action_space={action_space}, but value-based algorithms need a Discrete one: "
            "discretise the actions in a wrapper, or use an algorithm for continuous actions such as SAC."
        )
    if action_space.start != 0:
        wrapper = TRANSFORM_ACTION.format(start=action_space.start, n=action_space.n)
        raise ValueError(f"env has action_space={action_space}, but actions must start at 0: add the start with {wrapper}.")
    parts = observation_space.spaces if isinstance(observation_space, spaces.Dict) else {None: observation_space}
    for key, space in parts.items():
        name = "observation_space" if key is None else f"observation_space[{key!r}]"
        if not isinstance(space, (spaces.Box, spaces.Discrete, spaces.MultiDiscrete, spaces.MultiBinary)):
            remedy = (
                "convert it to numbers in a wrapper"
                if key is None
                else "remove it with a wrapper such as gymnasium.wrappers.FilterObservation, or convert it to numbers"
            )
            raise ValueError(f"env has {name}={space}, which networks cannot process: {remedy}.")
        if np.any(getattr(space, "start", 0) != 0):
            raise ValueError(
                f"env has {name}={space}, but observations must start at 0: subtract the start in a wrapper such as "
                "gymnasium.wrappers.TransformObservation."
            )


def refuse_vector_env(env: Any) -> None:
    """:raises ValueError: for a vector environment of Gymnasium"""
    if isinstance(env, VectorEnv):
        raise ValueError(
            f"env={env} is a vector environment of Gymnasium, which Stable-Baselines3 does not support: use its VecEnv, e.g. "
            f'make_vec_env("CartPole-v1", n_envs={env.num_envs}) of stable_baselines3.common.env_util.'
        )


def as_arrays(observation: Any) -> np.ndarray | dict[str, np.ndarray]:
    """
    :return: an observation given to ``predict``, which may contain lists and numbers, as arrays
    :raises ValueError: for what the ``reset`` of a Gymnasium environment returns
    """
    if isinstance(observation, tuple) and len(observation) == 2 and isinstance(observation[1], dict):
        raise ValueError(
            "You have passed a tuple to the predict() function instead of a Numpy array or a Dict. It is what reset() of "
            "a Gymnasium environment returns: use `obs, info = env.reset()`, and pass obs. reset() of SB3's VecEnv "
            "returns obs alone."
        )
    if isinstance(observation, dict):
        return {key: np.asarray(part) for key, part in observation.items()}
    return np.asarray(observation)


def check_images(model: ValueAlgorithm) -> None:
    """:raises ValueError: for images too small for the convolutions of the Nature DQN"""
    space, policy_kwargs = model.observation_space, model.policy_kwargs
    extractor = policy_kwargs.get("features_extractor_class") or default_features_extractor(model.policy_class)
    if extractor is CombinedExtractor and isinstance(space, spaces.Dict):
        normalized = not policy_kwargs.get("normalize_images", True)
        images = {f"[{key!r}]": part for key, part in space.items() if is_image_space(part, normalized_image=normalized)}
        remedy = "enlarge or flatten them in a wrapper, or use a features_extractor_class of your own"
    elif extractor in (NatureCNN, NatureConv):
        images = {"": space}
        remedy = (
            "use MlpPolicy, policy_kwargs=dict(features_extractor_class=MinAtarConv) with the one of sb3_distrl.networks, or "
            "enlarge them in a wrapper such as gymnasium.wrappers.ResizeObservation"
        )
    else:
        return
    for key, image in images.items():
        shape = image.shape or ()
        if len(shape) == 3 and min(shape[1:]) < NATURE_SIDE:
            raise ValueError(
                f"observation_space{key} of shape {shape} is too small for the convolutions of the Nature DQN, which take "
                f"images of at least {NATURE_SIDE}x{NATURE_SIDE}: {remedy}."
            )


def default_features_extractor(policy_class: type[BasePolicy]) -> type[BaseFeaturesExtractor] | None:
    """:return: the default of a policy class of this library, of SB3 or of sb3-contrib; ``None`` if unknown"""
    if issubclass(policy_class, ValuePolicy):
        return policy_class.default_features_extractor
    parameter = inspect.signature(policy_class).parameters.get("features_extractor_class")
    return None if parameter is None else parameter.default


def take_numbers(model: ValueAlgorithm) -> None:
    """Convert whole numbers of other types, as sweeps and files give them, to ints; raise a ValueError for other values."""
    for name, remedy in WHOLE_NUMBERS.items():
        setattr(model, name, whole_number(name, getattr(model, name), remedy))
    if model.seed is not None:
        model.seed = whole_number("seed", model.seed, "use an int, or None")
    if isinstance(model.train_freq, tuple):
        frequency, *unit = model.train_freq
        taken = (whole_number("train_freq", frequency, FREQUENCY), *unit)
        model.train_freq = TrainFreq(*taken) if isinstance(model.train_freq, TrainFreq) else taken  # type: ignore[assignment]
    else:
        model.train_freq = whole_number("train_freq", model.train_freq, FREQUENCY)
    if not callable(model.learning_rate):
        model.learning_rate = number("learning_rate", model.learning_rate, LEARNING_RATE)


def policy_arguments(policy_kwargs: dict[str, Any]) -> dict[str, Any]:
    """
    :return: a copy of ``policy_kwargs`` for the policy, with whole numbers of other types converted to ints
    :raises ValueError: naming an argument that is not a whole number
    """
    arguments = {name: dict(value) if isinstance(value, dict) else value for name, value in policy_kwargs.items()}
    if arguments.get("net_arch") is not None:
        arguments["net_arch"] = layer_sizes("net_arch", arguments["net_arch"])
    extractor_kwargs = arguments.get("features_extractor_kwargs") or {}
    for name in extractor_kwargs.keys() & {"features_dim", "cnn_output_dim"}:
        extractor_kwargs[name] = whole_number(name, extractor_kwargs[name], "use a number of features")
    return arguments


def check_overridden(model: ValueAlgorithm) -> None:
    """:raises ValueError: if a subclass overrides what nothing calls"""
    name = type(model).__name__
    if hasattr(model, "_loss"):
        raise ValueError(f"{name} overrides _loss, which nothing calls: the method is called loss.")
    if not isinstance(inspect.getattr_static(type(model), "select_actions"), staticmethod):
        raise ValueError(f"select_actions of {name} must be a static method, as it is exported: use @staticmethod.")
    if model.policy_class._predict is not ValuePolicy._predict:
        raise ValueError(
            f"policy={model.policy_class.__name__} overrides _predict, which the algorithm does not call: override "
            "select_actions of the algorithm, or acting_values of the network."
        )


def check_arguments(model: ValueAlgorithm) -> None:
    """:raises ValueError: naming the argument out of range, its value and the remedy"""
    if not issubclass(model.policy_class, tuple(model.policy_aliases.values())):
        raise ValueError(
            f"policy={model.policy_class.__name__} is not a policy of {type(model).__name__}: use one of "
            f"{', '.join(model.policy_aliases)}, a subclass of them, or the algorithm that saved the model."
        )
    check_overridden(model)
    check_spaces(model.observation_space, model.action_space)
    check_images(model)
    check_at_least("n_steps", model.n_steps, 1, WHOLE_NUMBERS["n_steps"])
    check_at_least("batch_size", model.batch_size, 1, WHOLE_NUMBERS["batch_size"])
    check_at_least("target_update_interval", model.target_update_interval, 0, WHOLE_NUMBERS["target_update_interval"])
    frequency = model.train_freq[0] if isinstance(model.train_freq, tuple) else model.train_freq
    check_at_least("train_freq", frequency, 1, FREQUENCY)
    if not callable(model.learning_rate):
        check_at_least("learning_rate", model.learning_rate, 0, LEARNING_RATE)
    check_alpha(model.alpha, "use 0.5, or prioritized=False for uniform sampling")
    check_fraction("gamma", model.gamma, "use a discount factor such as 0.99", zero=True)
    check_fraction("tau", model.tau, "use 1 to copy the network to the target network", zero=True)
    check_fraction("beta_initial", model.beta_initial, "the paper uses 0.4", zero=True)
    check_fraction("beta_final", model.beta_final, "the paper uses 1", zero=True)
    check_fraction("beta_fraction", model.beta_fraction, "use 1 for the whole training")
    exploring = "use the fraction of the training that explores"
    check_fraction("exploration_fraction", model.exploration_fraction, exploring, zero=True)
    check_fraction("exploration_initial_eps", model.exploration_initial_eps, "it is a probability", zero=True)
    check_fraction("exploration_final_eps", model.exploration_final_eps, "it is a probability", zero=True)
    if model.max_grad_norm is not None:
        check_at_least("max_grad_norm", model.max_grad_norm, 0, "use e.g. 10, or None for no clipping")
    if model.replay_ratio is not None:
        if not number("replay_ratio", model.replay_ratio, "use gradient steps per transition") > 0:
            raise ValueError(f"replay_ratio={model.replay_ratio} must be positive: use gradient steps per transition.")
        if model.gradient_steps != 1:
            raise ValueError(
                f"gradient_steps={model.gradient_steps} and replay_ratio={model.replay_ratio} contradict each other: "
                "set only one of them."
            )
    check_acceleration(model.precision, model.compile, model.device)
    buffer_class = model.replay_buffer_class or PrioritizedReplayBuffer
    check_priorities(model, buffer_class)
    check_buffer_settings(model, buffer_class)
