"""Files of models, checkpoints and replay buffers: what they contain, and whether it fits a model."""

import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stable_baselines3 import HerReplayBuffer
from stable_baselines3.common.buffers import ReplayBuffer

from sb3_distrl.common.episodes import end_episodes
from sb3_distrl.common.files import atomic_write, check_entries, read_object, reading, resolve_path, with_suffix, write_object
from sb3_distrl.common.finite import check_statistics
from sb3_distrl.common.replay import arguments_of

if TYPE_CHECKING:
    from sb3_distrl.common.model import ValueModel

BUFFER, STATISTICS = "replay_buffer", "vec_normalize"  # entries of a checkpoint, in addition to those of SB3's save()


def is_checkpoint(path: str | Path) -> bool:
    """:raises ValueError: if the file is not an archive, or is truncated or damaged"""
    with open(path, "rb") as file, reading(path), zipfile.ZipFile(file) as archive:
        return f"{BUFFER}/pickle" in archive.namelist()


def whole_model(path: str | Path) -> Path:
    """
    :return: the path of a saved model or checkpoint, with its suffix
    :raises ValueError: if it is something else, or if its model is truncated or damaged
    """
    path = resolve_path(path, ".zip")
    with open(path, "rb") as file, reading(path):
        names: list[str] = []
        if zipfile.is_zipfile(file):
            with zipfile.ZipFile(file) as archive:
                names = archive.namelist()
                check_entries(archive, (name for name in names if not name.startswith((f"{BUFFER}/", f"{STATISTICS}/"))))
    if not {"data", "policy.pth"} <= set(names):  # a truncated file may end like a smaller archive
        raise ValueError(f"path={path} is not a saved model, or is truncated.")
    return path


def save_checkpoint(model: "ValueModel", path: str | Path) -> None:
    """See :meth:`~sb3_distrl.common.model.ValueModel.save_checkpoint`."""
    normalize = model.get_vec_normalize_env()
    statistics = {name: getattr(normalize, name) for name in ("obs_rms", "ret_rms") if hasattr(normalize, name)}
    check_statistics(statistics)
    with atomic_write(with_suffix(path, ".zip")) as temporary:
        with open(temporary, "wb") as file:
            model.save(file)
        with zipfile.ZipFile(temporary, "a") as archive:
            write_object(archive, BUFFER, model.replay_buffer)
            write_object(archive, STATISTICS, statistics)


def take_checkpoint(model: "ValueModel", path: str | Path, arguments: dict[str, Any]) -> None:
    """
    Give a loaded model the checkpoint's replay buffer, and its environment the statistics.

    :param arguments: of ``load()``
    :raises ValueError: if the environment, or an argument for the replay buffer, does not match
    """
    asked_for = model.replay_buffer
    with open(path, "rb") as file, reading(path), zipfile.ZipFile(file) as archive:
        replay_buffer, statistics = (read_object(file, archive, name) for name in (BUFFER, STATISTICS))
    take_replay_buffer(model, replay_buffer, path)
    normalize = model.get_vec_normalize_env()
    if (normalize is None) != (not statistics):
        raise ValueError(
            f"env={model.env} and the environment that path={path} was saved with differ: wrap both in VecNormalize, or "
            "neither."
        )
    for name, value in statistics.items():
        setattr(normalize, name, value)
    for name, (asked, saved) in arguments_of(arguments, asked_for, model.replay_buffer).items():
        if asked != saved:
            raise ValueError(
                f"{name}={asked} differs from the replay buffer's {saved} in path={path}: leave it out, or use load() "
                "without that replay buffer."
            )


def take_replay_buffer(model: "ValueModel", replay_buffer: Any, path: str | Path) -> None:
    """:raises ValueError: if what was loaded is not a replay buffer, or has other spaces than the model"""
    if not isinstance(replay_buffer, ReplayBuffer):
        raise ValueError(f"path={path} holds a {type(replay_buffer).__name__}, not a replay buffer.")
    for name in ("observation_space", "action_space"):
        if getattr(replay_buffer, name) != getattr(model, name):
            raise ValueError(
                f"path={path} holds a replay buffer of {name}={getattr(replay_buffer, name)}, but the model has "
                f"{getattr(model, name)}: load the buffer that belongs to this model."
            )
    if isinstance(replay_buffer, HerReplayBuffer):
        replay_buffer.env = model.env  # not saved with it
    end_episodes(replay_buffer)
    replay_buffer.device = model.device
    model.replay_buffer = replay_buffer


@contextmanager
def keeping_replay_buffer(model: "ValueModel", path: Any) -> Iterator[None]:
    """
    Keep the model's replay buffer if the file to load is damaged, and raise a ValueError for SB3's AssertionError about env.
    """
    former = vars(model).get("replay_buffer")
    try:
        yield
    except ValueError as error:
        model.replay_buffer = former
        if isinstance(error.__cause__, AssertionError) and model.env is None:
            raise ValueError(
                f"path={path} holds a replay buffer that needs env: load the model with env=... first."
            ) from error
        raise


def is_archive(path: Path) -> bool:
    """:return: whether a replay buffer was saved by this library, rather than by SB3"""
    with open(path, "rb") as file, reading(path):
        return zipfile.is_zipfile(file)
