"""The observations of a replay buffer, of whatever space they are."""

import numpy as np
from gymnasium import spaces
from stable_baselines3.common.preprocessing import get_obs_shape

from sb3_distrl.buffers.blocks import FrameBlock, StoredBlock
from sb3_distrl.buffers.frames import FrameStorage
from sb3_distrl.buffers.storage import ObservationStorage, WholeStorage
from sb3_distrl.validation import check_finite, with_env_axis

Obs = np.ndarray | dict[str, np.ndarray]
Parts = dict[str, np.ndarray]  # of each key of a Dict, or of "" where there are no keys; in the shape and dtype that is stored
Storages = dict[str, ObservationStorage]

REMEDY = "mend the environment, or replace what is not finite in a wrapper"
SHAPES = (
    "give observations of the observation space, one for each environment. Wrappers that change observations, such as "
    "VecTransposeImage and VecFrameStack, belong inside VecNormalize, not around it"
)


def nbytes(storages: Storages, rows: int) -> int:
    """
    :param storages: of all keys
    :param rows: transitions of each environment
    :return: the bytes that they take
    """
    return sum(storage.nbytes(rows) for storage in storages.values())


class Observations:
    """
    The observations and next observations of all transitions: a storage for each key of a Dict, or a single one.

    :param space: of the observations
    :param rows: transitions of each environment
    :param n_envs: number of environments
    :param frames_once: keep each frame of a stack once
    :param for_blocks: for transitions that are all to be passed on by :meth:`blocks`
    """

    def __init__(self, space: spaces.Space, rows: int, n_envs: int, frames_once: bool, for_blocks: bool = False) -> None:
        self.is_dict = isinstance(space, spaces.Dict)
        self.rows, self.n_envs, self.frames_once, self.for_blocks = rows, n_envs, frames_once, for_blocks
        keys = space.spaces if isinstance(space, spaces.Dict) else {"": space}
        self.shapes: dict[str, tuple[int, ...]] = {key: get_obs_shape(part) for key, part in keys.items()}  # type: ignore
        self.dtypes = {key: np.dtype(part.dtype) for key, part in keys.items()}
        self.storages: Storages = {}

    @property
    def allocated(self) -> bool:
        """Whether memory is taken."""
        return bool(self.storages)

    def storages_for(self, obs: Parts | None = None, next_obs: Parts | None = None) -> Storages:
        """
        :param obs: the first observations, which tell how they are stacked; without them, storages are as small as can be
        :param next_obs: what follows them
        :return: a storage for each key, not allocated
        """
        storages: Storages = {}
        for key, shape in self.shapes.items():
            arguments = (self.rows, self.n_envs, shape, self.dtypes[key])
            if not self.frames_once or not shape:  # a single number has no axis to be stacked on
                storages[key] = WholeStorage(*arguments)
            elif obs is None or next_obs is None or self.for_blocks:
                storages[key] = FrameStorage(*arguments, lossless=self.for_blocks)
            else:
                storages[key] = FrameStorage.made_for(self.rows, obs[key], next_obs[key])
        return storages

    def storages_of(self, blocks: dict[str, StoredBlock]) -> Storages:
        """
        :param blocks: the first observations
        :return: a storage for each key that can be extended by them, not allocated
        """
        storages = self.storages_for()
        for key, storage in storages.items():
            block = blocks[key]
            if isinstance(storage, FrameStorage) and isinstance(block, FrameBlock):
                storage.expect(block.shifts_seen)
        return storages

    def allocate(self, storages: Storages) -> None:
        """
        :param storages: of :meth:`storages_for`
        """
        for storage in storages.values():
            storage.allocate()
        self.storages = storages

    def parts(self, name: str, obs: Obs) -> Parts:
        """
        :param name: of the argument that they are
        :param obs: as they come from an environment, shape [n_envs, ...]
        :return: as they are stored
        :raises ValueError: if one is not finite, or does not have the shape of its space
        """
        if isinstance(obs, dict) != self.is_dict:
            raise ValueError(f"{name} is a {type(obs).__name__} and should be {'a dict' if self.is_dict else 'an array'}.")
        if isinstance(obs, dict) and not obs.keys() >= self.shapes.keys():
            raise ValueError(f"{name} has keys {list(obs)} and should have {list(self.shapes)}.")
        parts = {}
        for key, shape in self.shapes.items():
            part = np.asarray(obs[key] if isinstance(obs, dict) else obs)
            label = f"{name}[{key!r}]" if self.is_dict else name
            check_finite(label, part, REMEDY)
            part = with_env_axis(label, part, self.n_envs, shape, SHAPES)
            parts[key] = part.astype(self.dtypes[key], copy=False)
        return parts

    def prepared(self, obs: Parts) -> Parts:
        """
        :param obs: of :meth:`parts`
        :return: as :meth:`continues` and :meth:`add` take it
        """
        return {key: storage.prepared(obs[key]) for key, storage in self.storages.items()}

    def continues(self, envs: np.ndarray, obs: Parts) -> np.ndarray:
        """
        :param envs: shape [E]
        :param obs: of :meth:`prepared`
        :return: whether they are the environments' next observations that were added last, to the bit, shape [E]
        """
        return np.logical_and.reduce([storage.continues(envs, obs[key]) for key, storage in self.storages.items()])

    def add(self, rows: np.ndarray, envs: np.ndarray, obs: Parts, next_obs: Parts, continues: np.ndarray) -> None:
        """
        :param rows: where to, shape [E]
        :param envs: shape [E]
        :param obs: of :meth:`prepared`
        :param next_obs: of :meth:`prepared`
        :param continues: of :meth:`continues`
        """
        for key, storage in self.storages.items():
            storage.add(rows, envs, obs[key], next_obs[key], continues)

    def blocks(self) -> dict[str, StoredBlock]:
        """:return: all that was added"""
        return {key: storage.block() for key, storage in self.storages.items()}

    def first(self, blocks: dict[str, StoredBlock]) -> Parts:
        """
        :param blocks: of :meth:`blocks`
        :return: their first observations, as of :meth:`prepared`
        """
        return {key: storage.first(blocks[key]) for key, storage in self.storages.items()}

    def extend(self, rows: np.ndarray, envs: np.ndarray, blocks: dict[str, StoredBlock], continues: np.ndarray) -> None:
        """
        :param rows: where to, shape [T, E]
        :param envs: shape [E]
        :param blocks: of another one's :meth:`blocks`
        :param continues: of :meth:`continues` for the first observations
        """
        for key, storage in self.storages.items():
            storage.extend(rows, envs, blocks[key], continues)

    def check_blocks(self, blocks: dict[str, StoredBlock], steps: int, n_envs: int) -> None:
        """
        :param blocks: that somebody else has made
        :param steps: T
        :param n_envs: E
        :raises ValueError: if they are not blocks of these observations
        """
        storages = self.storages or self.storages_for()
        if blocks.keys() != storages.keys():
            raise ValueError(f"A block has observations {sorted(blocks)} and should have {sorted(storages)}.")
        for key, storage in storages.items():
            storage.check_block(blocks[key], steps, n_envs)

    def take(self, rows: np.ndarray, envs: np.ndarray, which: int) -> Obs:
        """
        :param rows: shape [B]
        :param envs: shape [B]
        :param which: ``OBS`` or ``NEXT``
        :return: a copy of what was added, shape [B, ...]
        """
        return self._without_keys({key: storage.take(rows, envs, which) for key, storage in self.storages.items()})

    def arrays(self, which: int) -> Obs:
        """
        :param which: ``OBS`` or ``NEXT``
        :return: all of them, shape [rows, n_envs, ...]; read-only zeros before the first one
        :raises AttributeError: if frames are kept once
        """
        arrays: Parts = {}
        for key, storage in (self.storages or self.storages_for()).items():
            if not isinstance(storage, WholeStorage):
                name = ("observations", "next_observations")[which]
                raise AttributeError(
                    f"There is no array of {name} with optimize_memory_usage=True, which keeps each frame once: use sample(), "
                    "or optimize_memory_usage=False."
                )
            arrays[key] = storage.arrays[which]
        return self._without_keys(arrays)

    def _without_keys(self, parts: Parts) -> Obs:
        return parts if self.is_dict else parts[""]

    def hold(self, rows: np.ndarray, envs: np.ndarray) -> np.ndarray:
        """
        :param rows: shape [B]
        :param envs: shape [B]
        :return: whether all parts of these transitions' observations are still there, shape [B]
        """
        return np.logical_and.reduce([storage.holds(rows, envs) for storage in self.storages.values()])

    def follow(self, rows: np.ndarray, next_rows: np.ndarray, env: int) -> np.ndarray:
        """
        :param rows: shape [B]
        :param next_rows: shape [B]
        :param env: environment
        :return: whether the observations of ``next_rows`` are the next observations of ``rows``, shape [B]
        """
        return np.logical_and.reduce([storage.follow(rows, next_rows, env) for storage in self.storages.values()])

    def recover(self) -> None:
        """Make good what an exception has left half done."""
        for storage in self.storages.values():
            storage.recover()

    def check_valid(self) -> None:
        """
        :raises ValueError: if a storage is inconsistent
        """
        for storage in self.storages.values():
            storage.check_valid()
