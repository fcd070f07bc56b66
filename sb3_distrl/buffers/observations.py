"""The storage for an observation space; a Dict space has one for each key."""

from typing import Any

import numpy as np
from gymnasium import spaces
from stable_baselines3.common.preprocessing import get_obs_shape

from sb3_distrl.buffers.frames import FrameStorage
from sb3_distrl.buffers.storage import ObservationStorage, WholeStorage

Parts = dict[str, Any]


def make_storage(space: spaces.Space, rows: int, n_envs: int, frames_once: bool, lossless: bool = False) -> ObservationStorage:
    """Create a storage of ``rows`` transitions per environment, not allocated yet; see :class:`FrameStorage`."""
    if isinstance(space, spaces.Dict):
        parts = space.spaces.items()
        return DictStorage({key: make_storage(part, rows, n_envs, frames_once, lossless) for key, part in parts})
    shape: tuple[int, ...] = get_obs_shape(space)  # type: ignore[assignment]
    dtype = np.dtype(space.dtype)
    if frames_once and shape:  # a single number has no axis for stacks
        return FrameStorage(rows, n_envs, shape, dtype, lossless=lossless)
    return WholeStorage(rows, n_envs, shape, dtype)


class DictStorage(ObservationStorage):
    """A storage for each key of a Dict space."""

    def __init__(self, storages: dict[str, ObservationStorage]) -> None:
        self.storages = storages

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.storages = state["storages"]
        self.allocated = bool(self.storages)

    def prepared(self, obs: Any, next_obs: Any, key: str = "") -> tuple[Parts, Parts]:
        for name, given in (("obs", obs), ("next_obs", next_obs)):
            if not isinstance(given, dict):
                raise ValueError(f"{name} is a {type(given).__name__} and should be a dict.")
            if not given.keys() >= self.storages.keys():
                raise ValueError(f"{name} has keys {list(given)} and should have {list(self.storages)}.")
        parts: Parts = {}
        next_parts: Parts = {}
        for key, storage in self.storages.items():
            parts[key], next_parts[key] = storage.prepared(obs[key], next_obs[key], f"[{key!r}]")
        return parts, next_parts

    def prepared_block(self, block: Parts) -> Parts:
        return {key: storage.prepared_block(block[key]) for key, storage in self.storages.items()}

    def nbytes(self, rows: int) -> int:
        return sum(storage.nbytes(rows) for storage in self.storages.values())

    def allocate(self) -> None:
        for storage in self.storages.values():
            storage.allocate()
        self.allocated = True

    def continues(self, envs: np.ndarray, obs: Parts) -> np.ndarray:
        return np.logical_and.reduce([storage.continues(envs, obs[key]) for key, storage in self.storages.items()])

    def add(self, rows: np.ndarray, envs: np.ndarray, obs: Parts, next_obs: Parts, continues: np.ndarray) -> None:
        for key, storage in self.storages.items():
            storage.add(rows, envs, obs[key], next_obs[key], continues)

    def block(self) -> Parts:
        return {key: storage.block() for key, storage in self.storages.items()}

    def add_block(self, rows: np.ndarray, envs: np.ndarray, block: Parts, continues: np.ndarray) -> None:
        for key, storage in self.storages.items():
            storage.add_block(rows, envs, block[key], continues)

    def check_block(self, block: Parts, steps: int, n_envs: int) -> None:
        if not isinstance(block, dict) or block.keys() != self.storages.keys():
            there = sorted(block) if isinstance(block, dict) else type(block).__name__
            raise ValueError(f"A block has observations {there} and should have {sorted(self.storages)}.")
        for key, storage in self.storages.items():
            storage.check_block(block[key], steps, n_envs)

    def take(self, rows: np.ndarray, envs: np.ndarray, which: int) -> Parts:
        return {key: storage.take(rows, envs, which) for key, storage in self.storages.items()}

    def array(self, which: int) -> Parts:
        return {key: storage.array(which) for key, storage in self.storages.items()}

    def holds(self, rows: np.ndarray, envs: np.ndarray) -> np.ndarray:
        return np.logical_and.reduce([storage.holds(rows, envs) for storage in self.storages.values()])

    def follow(self, rows: np.ndarray, next_rows: np.ndarray, env: int) -> np.ndarray:
        return np.logical_and.reduce([storage.follow(rows, next_rows, env) for storage in self.storages.values()])

    def repair(self) -> None:
        for storage in self.storages.values():
            storage.repair()

    def check_valid(self) -> None:
        for storage in self.storages.values():
            storage.check_valid()


Observations = DictStorage  # its name in files of 0.1.0, which used it for all spaces, with the key "" for other than Dict
