"""Saving, and going on exactly where one has stopped."""

import io
import zipfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any, TypeVar

import torch as th
from stable_baselines3 import DQN, HerReplayBuffer
from stable_baselines3.common.buffers import ReplayBuffer
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.type_aliases import GymEnv, MaybeCallback, RolloutReturn, TrainFreq
from stable_baselines3.common.vec_env import VecEnv

from sb3_distrl.buffers import PrioritizedReplayBuffer
from sb3_distrl.common.archives import BUFFER, STATISTICS, is_checkpoint, whole_model
from sb3_distrl.common.episodes import end_episodes
from sb3_distrl.common.files import (
    atomic_write,
    load_object,
    read_object,
    reading,
    resolve_path,
    save_object,
    with_suffix,
    write_object,
)
from sb3_distrl.common.finite import check_model, check_statistics
from sb3_distrl.common.generators import Seeding, random_state, seeding_of_our_own, set_random_state
from sb3_distrl.common.replay import arguments_of
from sb3_distrl.common.stopping import StopAfterStoring, StoppableFreq

SelfResumable = TypeVar("SelfResumable", bound="Resumable")


class Resumable(DQN):
    """
    SB3's DQN, whose files are whole at any moment, and whose training goes on exactly.

    A model that was saved, and its replay buffer, or a checkpoint, which holds both, can be loaded in another process:
    ``learn(reset_num_timesteps=False)`` then does what the first process would have done, had its environment been reset
    there; on a CPU to the last bit. Random generators are taken over as well, at the beginning of that ``learn()``, but
    for those of the environment: seed it.

    What is asked for after saving wins: a seed given to ``load()``, ``model.set_random_seed()``, and SB3's
    ``set_random_seed()`` of all global generators, or ``torch.manual_seed()``, between ``load()`` and ``learn()``. Seeds of
    NumPy or Python alone do not: they cannot be told from numbers that were drawn.
    """

    _random_state: dict[str, Any] | None = None  # saved, to start the next learn() with
    _seeding: Seeding | None = None  # since it was loaded

    # Saving

    def save(
        self, path: str | Path | io.BufferedIOBase, exclude: Iterable[str] | None = None, include: Iterable[str] | None = None
    ) -> None:
        """
        Save the model without its replay buffer, with the state of the random generators.

        :param path: file, by default with the suffix .zip; it is whole, or what it was before, at any moment
        :param exclude: attributes to leave out
        :param include: attributes to save that usually are not
        :raises ValueError: if weights, or the optimizer's state, are not finite
        """
        check_model(self.policy, self._n_updates)
        waiting = self._random_state
        self._random_state = self._state_to_go_on_with() or random_state(self.action_space, self.device)
        try:
            if isinstance(path, (str, Path)):
                with atomic_write(with_suffix(path, ".zip")) as temporary:
                    super().save(temporary, exclude, include)
            else:
                super().save(path, exclude, include)
        finally:
            self._random_state = waiting

    @classmethod
    def load(
        cls: type[SelfResumable],
        path: str | Path | io.BufferedIOBase,
        env: GymEnv | None = None,
        device: th.device | str = "auto",
        custom_objects: dict[str, Any] | None = None,
        print_system_info: bool = False,
        force_reset: bool = True,
        **kwargs: Any,
    ) -> SelfResumable:
        """
        Load a model that ``save()`` or :meth:`save_checkpoint` saved, without its replay buffer.

        :param path: file
        :param env: as in SB3
        :param device: as in SB3
        :param custom_objects: as in SB3
        :param print_system_info: as in SB3
        :param force_reset: as in SB3
        :param kwargs: arguments of the constructor, in place of those saved; with ``seed``, the saved state of the random
            generators is not taken over
        :return: the model
        :raises ValueError: if the file is truncated or damaged, or is no model of this algorithm
        """
        if isinstance(path, (str, Path)):
            path = whole_model(path)
        model = super().load(path, env, device, custom_objects, print_system_info, force_reset, **kwargs)
        given = {**(custom_objects or {}), **kwargs}
        if given.get("seed") is not None:
            model._random_state = None
        if "exploration_rate" not in given and any(name.startswith("exploration_") for name in given):
            model.exploration_rate = model.exploration_schedule(model._current_progress_remaining)
        model._seeding = Seeding(model.action_space)
        return model

    def save_replay_buffer(self, path: str | Path | io.BufferedIOBase) -> None:
        """
        Save the replay buffer.

        :param path: file, by default with the suffix .pkl; it is whole, or what it was before, at any moment
        """
        if not isinstance(path, (str, Path)):
            super().save_replay_buffer(path)
        elif isinstance(self.replay_buffer, PrioritizedReplayBuffer):
            save_object(with_suffix(path, ".pkl"), self.replay_buffer)
        else:
            with atomic_write(with_suffix(path, ".pkl")) as temporary:
                super().save_replay_buffer(temporary)

    def load_replay_buffer(self, path: str | Path | io.BufferedIOBase, truncate_last_traj: bool = True) -> None:
        """
        Load a replay buffer; the next transition starts a new episode.

        :param path: file, of this library or of SB3
        :param truncate_last_traj: ``False`` has the next transition go on with the last episode, in buffers of SB3
        :raises ValueError: if the file is truncated or damaged, or is no replay buffer
        """
        if isinstance(path, (str, Path)):
            path = resolve_path(path, ".pkl")
            with open(path, "rb") as file:
                with reading(path):
                    own = zipfile.is_zipfile(file)
                if own:
                    self._take_replay_buffer(load_object(path), path)
                else:
                    file.seek(0)
                    self._load_pickled_replay_buffer(file, truncate_last_traj, path)
        else:
            self._load_pickled_replay_buffer(path, truncate_last_traj, getattr(path, "name", path))

    def _load_pickled_replay_buffer(self, file: io.BufferedIOBase, truncate_last_traj: bool, path: Any) -> None:
        """
        :param file: of SB3, or a stream of this library
        :param truncate_last_traj: as in :meth:`load_replay_buffer`
        :param path: the name of it
        """
        former = vars(self).get("replay_buffer")
        try:
            with reading(path):
                super().load_replay_buffer(file, truncate_last_traj)
        except ValueError as error:
            self.replay_buffer = former
            if isinstance(error.__cause__, AssertionError) and self.env is None:  # SB3's, of a HerReplayBuffer
                raise ValueError(
                    f"path={path} holds a replay buffer that needs env: load the model with env=... first."
                ) from error
            raise
        if truncate_last_traj:
            end_episodes(self.replay_buffer)  # type: ignore[arg-type]

    def _take_replay_buffer(self, replay_buffer: Any, path: str | Path) -> None:
        if not isinstance(replay_buffer, ReplayBuffer):
            raise ValueError(f"path={path} holds a {type(replay_buffer).__name__} and no replay buffer.")
        for name in ("observation_space", "action_space"):
            if getattr(replay_buffer, name) != getattr(self, name):
                raise ValueError(
                    f"path={path} holds a replay buffer of {name}={getattr(replay_buffer, name)}, but the model has "
                    f"{getattr(self, name)}: load the buffer that belongs to it."
                )
        if isinstance(replay_buffer, HerReplayBuffer):
            replay_buffer.env = self.env  # is not saved with it
        end_episodes(replay_buffer)
        replay_buffer.device = self.device
        self.replay_buffer = replay_buffer

    def save_checkpoint(self, path: str | Path) -> None:
        """
        Save all that training needs to go on, in one file: the model, its replay buffer, and VecNormalize's statistics.

        :param path: file, by default with the suffix .zip; it is whole, or what it was before, at any moment. ``load()``
            takes it for a model, too
        :raises ValueError: if weights, the optimizer's state or statistics are not finite
        """
        normalize = self.get_vec_normalize_env()
        statistics = {name: getattr(normalize, name) for name in ("obs_rms", "ret_rms") if hasattr(normalize, name)}
        check_statistics(statistics)
        with atomic_write(with_suffix(path, ".zip")) as temporary:
            with open(temporary, "wb") as file:
                self.save(file)
            with zipfile.ZipFile(temporary, "a") as archive:
                write_object(archive, BUFFER, self.replay_buffer)
                write_object(archive, STATISTICS, statistics)

    @classmethod
    def load_checkpoint(cls: type[SelfResumable], path: str | Path, env: GymEnv, **kwargs: Any) -> SelfResumable:
        """
        Load what :meth:`save_checkpoint` saved, to go on with ``learn(reset_num_timesteps=False)``.

        :param path: file
        :param env: like the one that the checkpoint was made with; VecNormalize is given the statistics of then
        :param kwargs: of ``load()``
        :return: the model with its replay buffer
        :raises ValueError: if the file is no checkpoint, or is truncated or damaged, or if the environment or an argument for
            the replay buffer does not fit
        """
        path = resolve_path(path, ".zip")
        if not is_checkpoint(path):
            raise ValueError(f"path={path} is no checkpoint: use load() and load_replay_buffer() for separate files.")
        model = cls.load(path, env=env, **kwargs)
        asked_for = model.replay_buffer
        model._take_checkpoint(path)
        for name, (asked, saved) in arguments_of(kwargs, asked_for, model.replay_buffer).items():
            if asked != saved:
                raise ValueError(
                    f"{name}={asked} is not that of the replay buffer in path={path}, {saved}: leave it out, or use load() "
                    "without that replay buffer."
                )
        return model

    def _take_checkpoint(self, path: str | Path) -> None:
        """:param path: of the checkpoint that the model was loaded from; it holds what else there is to load"""
        with open(path, "rb") as file, reading(path), zipfile.ZipFile(file) as archive:
            replay_buffer, statistics = (read_object(file, archive, name) for name in (BUFFER, STATISTICS))
        self._take_replay_buffer(replay_buffer, path)
        self._take_statistics(statistics, path)

    def _take_statistics(self, statistics: dict[str, Any], path: str | Path) -> None:
        normalize = self.get_vec_normalize_env()
        if (normalize is None) != (not statistics):
            raise ValueError(
                f"env={self.env} and the environment that path={path} was made with are not alike: wrap both in VecNormalize, "
                "or none."
            )
        for name, value in statistics.items():
            setattr(normalize, name, value)

    # Going on

    def _setup_model(self) -> None:
        waiting = self._random_state
        with seeding_of_our_own():
            super()._setup_model()
        self._random_state = waiting  # the seed that SB3 sets here may be the saved one

    def set_random_seed(self, seed: int | None = None) -> None:
        """
        Seed all random generators, as in SB3; the model's ``seed`` is this one from now on.

        :param seed: seed; ``None`` changes nothing
        """
        super().set_random_seed(seed)
        if seed is not None:
            self.seed, self._random_state = seed, None

    def set_env(self, env: GymEnv, force_reset: bool = True) -> None:
        """
        Set the environment to learn from, as in SB3; ``HerReplayBuffer`` computes rewards by it, too.

        :param env: environment
        :param force_reset: reset it before training
        """
        super().set_env(env, force_reset)
        if isinstance(self.replay_buffer, HerReplayBuffer):
            self.replay_buffer.env = self.env

    def _state_to_go_on_with(self) -> dict[str, Any] | None:
        """:return: the saved state of the random generators, but of those that were seeded since the model was loaded"""
        if self._random_state is None or self._seeding is None:
            return self._random_state
        return self._seeding.unseeded_since(self._random_state, self.action_space, self.device)

    def _setup_learn(
        self,
        total_timesteps: int,
        callback: MaybeCallback = None,
        reset_num_timesteps: bool = True,
        tb_log_name: str = "run",
        progress_bar: bool = False,
    ) -> tuple[int, BaseCallback]:
        state = self._state_to_go_on_with()
        if state is not None and not reset_num_timesteps:
            with seeding_of_our_own():
                set_random_state(state, self.action_space, self.device)
        self._random_state = None
        return super()._setup_learn(total_timesteps, callback, reset_num_timesteps, tb_log_name, progress_bar)

    def collect_rollouts(  # type: ignore[override]
        self, env: VecEnv, callback: BaseCallback, train_freq: TrainFreq, *args: Any, **kwargs: Any
    ) -> RolloutReturn:
        """
        Collect transitions, as in SB3, but that the step at which a callback stops training is stored, too. Where an exception
        stops it, the environment may have gone a step further than what was stored: the next ``learn()`` resets it.
        """
        stoppable = StoppableFreq(*train_freq)
        complete = False
        try:
            rollout = super().collect_rollouts(env, StopAfterStoring(callback, stoppable), stoppable, *args, **kwargs)
            complete = True
        finally:
            if not complete:
                self._last_obs = None
        return rollout._replace(continue_training=not stoppable.stopped)

    def _excluded_save_params(self) -> list[str]:
        return [*super()._excluded_save_params(), "_seeding"]
