"""What the file of a model or a checkpoint holds."""

import zipfile
from pathlib import Path

from sb3_distrl.common.files import check_entries, reading, resolve_path

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
