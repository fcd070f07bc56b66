"""Files that are whole or not there, and objects with large arrays in them, streamed."""

import errno
import mmap
import os
import pickle
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

CHUNK = 1 << 22  # bytes handed on at a time: no copy is larger
OBJECT = "object"  # its name in a file that holds nothing else
MAPPED = 1 << 20  # bytes from which on arrays are mapped rather than read


def with_suffix(path: str | Path, suffix: str) -> Path:
    """
    :param path: file name
    :param suffix: with its dot
    :return: the path, with the suffix if it has none, as SB3 does
    """
    path = Path(path)
    return path if path.suffix else path.with_name(path.name + suffix)


def existing(path: str | Path, suffix: str) -> Path:
    """
    :param path: file name
    :param suffix: with its dot
    :return: the file of this name, or of this name with the suffix, as SB3 finds it
    :raises FileNotFoundError: if there is neither
    """
    found = Path(path) if Path(path).exists() else with_suffix(path, suffix)
    if not found.exists():
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(found))
    return found


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """
    What is written to the path given out takes the place of the file at once, when the block ends without an exception.

    Until then the former file is there, however the process dies.

    :param path: the file
    :return: where to write
    """
    path = Path(os.path.realpath(path))  # a link stays one
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        yield temporary
        with open(temporary, "rb+") as file:
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def write_object(archive: zipfile.ZipFile, name: str, thing: Any) -> None:
    """
    Pickle an object, its arrays next to it, so that they need not be copied.

    :param archive: where to
    :param name: under which name
    :param thing: anything that can be pickled
    """
    buffers: list[pickle.PickleBuffer] = []
    archive.writestr(f"{name}/pickle", pickle.dumps(thing, protocol=5, buffer_callback=buffers.append))
    for number, buffer in enumerate(buffers):
        with archive.open(f"{name}/{number}", "w", force_zip64=True) as file, buffer.raw() as raw:
            for start in range(0, len(raw), CHUNK):
                file.write(raw[start : start + CHUNK])


def read_object(file: BinaryIO, archive: zipfile.ZipFile, name: str) -> Any:
    """
    :param file: an open file
    :param archive: the archive in it, that was written to without compression
    :param name: under which name
    :return: what :func:`write_object` wrote
    :raises zipfile.BadZipFile: if it was changed since
    """
    entries = {entry.filename for entry in archive.infolist()}
    buffers: list[memoryview | bytearray] = []
    while (entry := f"{name}/{len(buffers)}") in entries:
        buffers.append(_map(file, archive.getinfo(entry)))
    return pickle.loads(archive.read(f"{name}/pickle"), buffers=buffers)


def _map(file: BinaryIO, entry: zipfile.ZipInfo) -> memoryview | bytearray:
    """
    :param file: an open file
    :param entry: uncompressed
    :return: its bytes; from the file itself, if they are many, so that whoever copies them does not need the memory twice
    """
    file.seek(entry.header_offset + 26)  # the lengths of two fields of variable length, that follow
    name_length, extra_length = (int.from_bytes(file.read(2), "little") for _ in range(2))
    start, size = entry.header_offset + 30 + name_length + extra_length, entry.file_size
    if size < MAPPED:
        file.seek(start)
        content: memoryview | bytearray = bytearray(file.read(size))
    else:
        content = memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY))[start : start + size]
    checksum = 0
    for begin in range(0, size, CHUNK):
        checksum = zlib.crc32(content[begin : begin + CHUNK], checksum)
    if checksum != entry.CRC or len(content) != size:
        raise zipfile.BadZipFile(f"{entry.filename} was changed since it was written")
    return content


def save_object(path: str | Path, thing: Any) -> None:
    """
    :param path: file; it is whole, or what it was before, at any moment
    :param thing: anything that can be pickled
    """
    with replacing(Path(path)) as temporary, zipfile.ZipFile(temporary, "w") as archive:
        write_object(archive, OBJECT, thing)


def load_object(path: str | Path) -> Any:
    """
    :param path: file that :func:`save_object` wrote
    :return: what was saved
    :raises ValueError: if it was not, or if it is not whole
    """
    try:
        with open(path, "rb") as file, zipfile.ZipFile(file) as archive:
            return read_object(file, archive, OBJECT)
    except (zipfile.BadZipFile, KeyError) as error:
        raise ValueError(f"path={path} cannot be read: it is truncated or damaged, or was saved by something else.") from error
