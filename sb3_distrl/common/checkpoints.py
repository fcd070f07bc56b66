"""Files of models, checkpoints and replay buffers: what they hold, and what of it fits a model."""

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

BUFFER, STATISTICS = "replay_buffer", "vec_normalize"  # in a checkpoint, beside what SB3 saves of a model


def is_checkpoint(path: str | Path) -> bool:
    """
    :param path: of a saved model or a checkpoint
    :return: whether it is a checkpoint
    :raises ValueError: if it is no archive, or is truncated or damaged
    """
    with open(path, "rb") as file, reading(path), zipfile.ZipFile(file) as archive:
        return f"{BUFFER}/pickle" in archive.namelist()


def whole_model(path: str | Path) -> Path:
    """
    :param path: of a saved model or a checkpoint
    :return: it, with its suffix
    :raises ValueError: if it is something else, or if what it holds of the model is truncated or damaged
    """
    path = resolve_path(path, ".zip")
    with open(path, "rb") as file, reading(path):
        names: list[str] = []
        if zipfile.is_zipfile(file):
            with zipfile.ZipFile(file) as archive:
                names = archive.namelist()
                check_entries(archive, (name for name in names if not name.startswith((f"{BUFFER}/", f"{STATISTICS}/"))))
    if not {"data", "policy.pth"} <= set(names):  # the end of a truncated file may look like that of a smaller archive
        raise ValueError(f"path={path} is no saved model, or is truncated.")
    return path


def save_checkpoint(model: "ValueModel", path: str | Path) -> None:
    """
    :param model: to save with its replay buffer and VecNormalize's statistics
    :param path: file
    :raises ValueError: if weights, the optimizer's state or statistics are not finite
    """
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
    :param model: loaded from the checkpoint; it is given the replay buffer, and its environment the statistics
    :param path: of the checkpoint
    :param arguments: of ``load()``
    :raises ValueError: if the environment, or an argument for the replay buffer, does not fit
    """
    asked_for = model.replay_buffer
    with open(path, "rb") as file, reading(path), zipfile.ZipFile(file) as archive:
        replay_buffer, statistics = (read_object(file, archive, name) for name in (BUFFER, STATISTICS))
    take_replay_buffer(model, replay_buffer, path)
    normalize = model.get_vec_normalize_env()
    if (normalize is None) != (not statistics):
        raise ValueError(
            f"env={model.env} and the environment that path={path} was made with are not alike: wrap both in VecNormalize, "
            "or none."
        )
    for name, value in statistics.items():
        setattr(normalize, name, value)
    for name, (asked, saved) in arguments_of(arguments, asked_for, model.replay_buffer).items():
        if asked != saved:
            raise ValueError(
                f"{name}={asked} is not that of the replay buffer in path={path}, {saved}: leave it out, or use load() "
                "without that replay buffer."
            )


def take_replay_buffer(model: "ValueModel", replay_buffer: Any, path: str | Path) -> None:
    """
    :param model: that is given the replay buffer
    :param replay_buffer: loaded
    :param path: of its file
    :raises ValueError: if it is none, or belongs to other spaces
    """
    if not isinstance(replay_buffer, ReplayBuffer):
        raise ValueError(f"path={path} holds a {type(replay_buffer).__name__} and no replay buffer.")
    for name in ("observation_space", "action_space"):
        if getattr(replay_buffer, name) != getattr(model, name):
            raise ValueError(
                f"path={path} holds a replay buffer of {name}={getattr(replay_buffer, name)}, but the model has "
                f"{getattr(model, name)}: load the buffer that belongs to it."
            )
    if isinstance(replay_buffer, HerReplayBuffer):
        replay_buffer.env = model.env  # is not saved with it
    end_episodes(replay_buffer)
    replay_buffer.device = model.device
    model.replay_buffer = replay_buffer


@contextmanager
def keeping_replay_buffer(model: "ValueModel", path: Any) -> Iterator[None]:
    """
    Keep the model's replay buffer where the one to load is damaged.

    :param model: whose replay buffer is loaded in this block
    :param path: of the file
    :raises ValueError: instead of SB3's AssertionError, if a HerReplayBuffer is loaded without env
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
    """
    :param path: of a replay buffer
    :return: whether this library wrote it, rather than SB3
    """
    with open(path, "rb") as file, reading(path):
        return zipfile.is_zipfile(file)
