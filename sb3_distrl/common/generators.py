"""The random generators that training draws from."""

import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from weakref import WeakSet

import numpy as np
import torch as th
from gymnasium import spaces


def _uses_cuda(device: th.device) -> bool:
    """
    Whether GPU generators matter. Asking them before CUDA is initialised would initialise it, which takes hundreds of MB on
    each GPU and fails in a forked process.
    """
    return device.type == "cuda" and th.cuda.is_initialized()


def random_state(action_space: spaces.Space, device: th.device) -> dict[str, Any]:
    """:return: the state of all random generators that training draws from, except the environments'"""
    return {
        "python": random.getstate(),
        "numpy": np.random.get_state(),
        "torch": th.get_rng_state().numpy(),
        "cuda": [state.numpy() for state in th.cuda.get_rng_state_all()] if _uses_cuda(device) else [],
        "action_space": action_space.np_random.bit_generator.state,
    }


def set_random_state(state: dict[str, Any], action_space: spaces.Space, device: th.device) -> None:
    """Restore the state from :func:`random_state`."""
    random.setstate(state["python"])
    np.random.set_state(state["numpy"])
    th.set_rng_state(th.from_numpy(state["torch"].copy()))
    if state["cuda"] and _uses_cuda(device) and len(state["cuda"]) == th.cuda.device_count():
        th.cuda.set_rng_state_all([th.from_numpy(each.copy()) for each in state["cuda"]])
    action_space.np_random.bit_generator.state = state["action_space"]


def _freshly_seeded() -> bool:
    """:return: whether nothing has been drawn from torch's generator since it was seeded"""
    return th.equal(th.get_rng_state(), th.Generator().manual_seed(th.initial_seed()).get_state())


class Seeding:
    """
    Detects which generators are seeded later on, whatever is drawn meanwhile: the action space's and, judged by torch's, all
    global ones together, as SB3's ``set_random_seed`` seeds them. Seeding cannot be detected for NumPy's and Python's alone.
    """

    def __init__(self, action_space: spaces.Space) -> None:
        self.generator = action_space.np_random
        self.seen = False  # whether seeded before the last look()
        self.look()
        _watching.add(self)

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        _watching.add(self)

    def look(self) -> None:
        """Take the current state of the global generators as not seeded by the user."""
        self.torch_seed, self.fresh = th.initial_seed(), _freshly_seeded()

    def seeded(self) -> bool:
        """:return: whether the global generators were seeded since, even with the same seed"""
        return self.seen or th.initial_seed() != self.torch_seed or (_freshly_seeded() and not self.fresh)

    def unseeded_since(self, state: dict[str, Any], action_space: spaces.Space, device: th.device) -> dict[str, Any]:
        """
        :param state: from :func:`random_state`, to continue with
        :return: the state, but with the current one of generators that were seeded since
        """
        now = random_state(action_space, device)
        space = (now if action_space.np_random is not self.generator else state)["action_space"]
        return {**(now if self.seeded() else state), "action_space": space}


_watching: WeakSet[Seeding] = WeakSet()


@contextmanager
def seeding_of_our_own() -> Iterator[None]:
    """Seeding in this block, when a model is created, loaded or resumed, is not taken for the user's by other models."""
    for seeding in _watching:
        seeding.seen = seeding.seeded()
    try:
        yield
    finally:
        for seeding in _watching:
            seeding.look()


def seed_cpu_generators(seed: int) -> None:
    """Seed the global generators like SB3's ``set_random_seed``, except those of GPUs, which others may be using."""
    random.seed(seed)
    np.random.seed(seed)
    th.default_generator.manual_seed(seed)
