"""The random generators that training draws from."""

import random
from typing import Any

import numpy as np
import torch as th
from gymnasium import spaces


def _uses_cuda(device: th.device) -> bool:
    """
    :param device: of the model
    :return: whether generators of GPUs matter; where CUDA is not initialised, asking for them would initialise it, which takes
        hundreds of MB of each GPU, and fails in a forked process
    """
    return device.type == "cuda" and th.cuda.is_initialized()


def random_state(action_space: spaces.Space, device: th.device) -> dict[str, Any]:
    """
    :param action_space: whose samples are used
    :param device: of the model
    :return: the state of all random generators that training draws from, but for those of the environments
    """
    return {
        "python": random.getstate(),
        "numpy": np.random.get_state(),
        "torch": th.get_rng_state().numpy(),
        "cuda": [state.numpy() for state in th.cuda.get_rng_state_all()] if _uses_cuda(device) else [],
        "action_space": action_space.np_random.bit_generator.state,
    }


def set_random_state(state: dict[str, Any], action_space: spaces.Space, device: th.device) -> None:
    """
    :param state: of :func:`random_state`
    :param action_space: whose samples are used
    :param device: of the model
    """
    random.setstate(state["python"])
    np.random.set_state(state["numpy"])
    th.set_rng_state(th.from_numpy(state["torch"].copy()))
    if state["cuda"] and _uses_cuda(device) and len(state["cuda"]) == th.cuda.device_count():
        th.cuda.set_rng_state_all([th.from_numpy(each.copy()) for each in state["cuda"]])
    action_space.np_random.bit_generator.state = state["action_space"]


def seed_cpu_generators(seed: int) -> None:
    """
    Seed the global generators as SB3's ``set_random_seed`` does, but for those of GPUs, which may be somebody else's.

    :param seed: seed
    """
    random.seed(seed)
    np.random.seed(seed)
    th.default_generator.manual_seed(seed)
