"""The random generators that training draws from."""

import random
from typing import Any

import numpy as np
import torch as th
from gymnasium import spaces


def random_state(action_space: spaces.Space) -> dict[str, Any]:
    """
    :param action_space: whose samples are used
    :return: the state of all random generators that training draws from, but for those of the environments
    """
    return {
        "python": random.getstate(),
        "numpy": np.random.get_state(),
        "torch": th.get_rng_state().numpy(),
        "cuda": [state.numpy() for state in th.cuda.get_rng_state_all()] if th.cuda.is_available() else [],
        "action_space": action_space.np_random.bit_generator.state,
    }


def set_random_state(state: dict[str, Any], action_space: spaces.Space) -> None:
    """
    :param state: of :func:`random_state`
    :param action_space: whose samples are used
    """
    random.setstate(state["python"])
    np.random.set_state(state["numpy"])
    th.set_rng_state(th.from_numpy(state["torch"].copy()))
    if th.cuda.is_available() and len(state["cuda"]) == th.cuda.device_count():
        th.cuda.set_rng_state_all([th.from_numpy(each.copy()) for each in state["cuda"]])
    action_space.np_random.bit_generator.state = state["action_space"]
