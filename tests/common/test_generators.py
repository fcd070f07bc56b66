"""The state of random generators: complete, and without touching GPUs that the model is not on."""

import copy
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch as th
from gymnasium import spaces

from sb3_distrl import Rainbow
from sb3_distrl.common.generators import random_state, set_random_state
from tests.common.envs import vec_env
from tests.common.settings import make
from tests.distributed.models import make_model

CPU, CUDA = th.device("cpu"), th.device("cuda")


class FakeCuda:
    """Two GPUs that count how often they are asked for something; each call would initialise CUDA."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, initialized: bool) -> None:
        self.calls: list[str] = []
        self.states = [th.full((16,), number, dtype=th.uint8) for number in (1, 2)]
        monkeypatch.setattr(th.cuda, "is_available", lambda: True)
        monkeypatch.setattr(th.cuda, "is_initialized", lambda: initialized)
        monkeypatch.setattr(th.cuda, "device_count", lambda: 2)
        monkeypatch.setattr(th.cuda, "get_rng_state_all", self.get_all)
        monkeypatch.setattr(th.cuda, "set_rng_state_all", self.set_all)

    def get_all(self) -> list[th.Tensor]:
        self.calls.append("get")
        return [state.clone() for state in self.states]

    def set_all(self, states: list[th.Tensor]) -> None:
        self.calls.append("set")
        self.states = states


@pytest.mark.parametrize("initialized", [False, True])
def test_a_model_on_the_cpu_leaves_gpus_alone(initialized: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cuda = FakeCuda(monkeypatch, initialized)
    model = make(Rainbow)
    model.learn(30)
    model.save_checkpoint(tmp_path / "checkpoint")
    loaded = Rainbow.load_checkpoint(tmp_path / "checkpoint", env=vec_env(), device="cpu")
    loaded.learn(10, reset_num_timesteps=False)
    assert cuda.calls == []


def test_actors_leave_gpus_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Not even a seed is kept for the time when CUDA is initialised, which may be the learner's."""
    cuda = FakeCuda(monkeypatch, initialized=True)
    seeds: list[int] = []
    model = make_model()
    monkeypatch.setattr(th.cuda, "manual_seed_all", seeds.append)
    model.learn(100)
    assert cuda.calls == [] and seeds == []


@pytest.mark.parametrize(("device", "initialized"), [(CPU, True), (CUDA, False), (CUDA, True)])
def test_gpus_are_asked_where_the_model_is_on_one(
    device: th.device, initialized: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In a forked child CUDA is not initialised, and cannot be."""
    cuda = FakeCuda(monkeypatch, initialized)
    space = spaces.Discrete(3)
    state = random_state(space, device)
    used = device == CUDA and initialized
    assert [list(each) for each in state["cuda"]] == ([[1] * 16, [2] * 16] if used else [])
    cuda.states = []
    set_random_state(state, space, device)
    assert cuda.calls == (["get", "set"] if used else [])
    assert len(cuda.states) == (2 if used else 0)


def test_the_state_of_other_gpus_is_ignored(monkeypatch: pytest.MonkeyPatch) -> None:
    """Such as that of a machine with more of them, or of a model that was on a CPU."""
    cuda = FakeCuda(monkeypatch, True)
    space = spaces.Discrete(3)
    for states in ([], [cuda.states[0].numpy()]):
        set_random_state({**random_state(space, CPU), "cuda": states}, space, CUDA)
    assert cuda.calls == []


def draws(space: spaces.Space) -> list[Any]:
    return [random.random(), np.random.rand(), th.rand(1).item(), [int(space.sample()) for _ in range(20)]]


def test_all_generators_go_on() -> None:
    space = spaces.Discrete(1000)
    state = random_state(space, CPU)
    expected = draws(space)
    assert draws(space) != expected
    set_random_state(state, space, CPU)
    assert draws(space) == expected


def test_a_copy_of_a_loaded_model_resumes_exactly(tmp_path: Path) -> None:
    """Also if another model, which seeds the generators, is made before."""
    model = make(Rainbow)
    model.learn(30)
    model.save_checkpoint(tmp_path / "checkpoint")
    parameters = []
    for copied in (False, True):
        loaded = Rainbow.load_checkpoint(tmp_path / "checkpoint", env=vec_env(), device="cpu")
        if copied:
            loaded = copy.deepcopy(loaded)
        make(Rainbow, seed=5)
        loaded.learn(20, reset_num_timesteps=False)
        parameters.append(th.nn.utils.parameters_to_vector(loaded.q_net.parameters()))
    assert th.equal(*parameters)
