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


def _freshly_seeded() -> bool:
    """:return: whether nothing was drawn from torch's generator since it was seeded"""
    return th.equal(th.get_rng_state(), th.Generator().manual_seed(th.initial_seed()).get_state())


class Seeding:
    """
    Tells which generators are seeded later on, whatever is drawn meanwhile: those of the action space and, by that of torch,
    all global ones at once, as SB3's ``set_random_seed`` seeds them. NumPy's and Python's cannot tell on their own.

    :param action_space: whose generator is meant
    """

    def __init__(self, action_space: spaces.Space) -> None:
        self.generator = action_space.np_random
        self.seen = False  # seeded before the last look
        self.look()
        _watching.add(self)

    def look(self) -> None:
        """Take the global generators as they are now for those that nobody has seeded."""
        self.torch_seed, self.fresh = th.initial_seed(), _freshly_seeded()

    def seeded(self) -> bool:
        """:return: whether the global generators were seeded, perhaps with the seed that they had"""
        return self.seen or th.initial_seed() != self.torch_seed or (_freshly_seeded() and not self.fresh)

    def unseeded_since(self, state: dict[str, Any], action_space: spaces.Space, device: th.device) -> dict[str, Any]:
        """
        :param state: of :func:`random_state`, to go on with
        :param action_space: that of then
        :param device: of the model
        :return: the same, but of generators that were seeded since as they are now
        """
        now = random_state(action_space, device)
        space = (now if action_space.np_random is not self.generator else state)["action_space"]
        return {**(now if self.seeded() else state), "action_space": space}


_watching: WeakSet[Seeding] = WeakSet()


@contextmanager
def seeding_of_our_own() -> Iterator[None]:
    """Global generators that are seeded in this block, as a model is made, loaded or goes on, are nobody's wish for others."""
    for seeding in _watching:
        seeding.seen = seeding.seeded()
    try:
        yield
    finally:
        for seeding in _watching:
            seeding.look()


def seed_cpu_generators(seed: int) -> None:
    """
    Seed the global generators as SB3's ``set_random_seed`` does, but for those of GPUs, which may be somebody else's.

    :param seed: seed
    """
    random.seed(seed)
    np.random.seed(seed)
    th.default_generator.manual_seed(seed)
