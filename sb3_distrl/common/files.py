"""Atomic writing of files, and streaming of objects with large arrays."""

import errno
import io
import mmap
import os
import pickle
import zipfile
import zlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

CHUNK = 1 << 22  # bytes copied at a time
OBJECT = "object"  # its name in a file of one object
MAPPED = 1 << 20  # bytes; larger arrays are memory-mapped instead of read


def with_suffix(path: str | Path, suffix: str) -> Path:
    """
    :param suffix: with its dot
    :return: the path, with the suffix if it has none, as in SB3
    """
    path = Path(path)
    return path if path.suffix else path.with_name(path.name + suffix)


def resolve_path(path: str | Path, suffix: str) -> Path:
    """
    :param suffix: with its dot
    :return: the existing file of this name, or of this name with the suffix, as in SB3
    :raises FileNotFoundError: if neither exists
    """
    found = Path(path) if Path(path).exists() else with_suffix(path, suffix)
    if not found.exists():
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(found))
    return found


@contextmanager
def atomic_write(path: Path, shared: bool = False) -> Iterator[Path]:
    """
    Replace a file by what is written to the path yielded, at once, if the block ends without an exception. Until then the old
    file is kept, even if the process is killed.

    :param shared: whether several processes may write it at the same time; each then has its own temporary file
    """
    path = Path(os.path.realpath(path))  # a link stays a link
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp" if shared else f".{path.name}.tmp")
    try:
        yield temporary
        with open(temporary, "rb+") as file:
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def reading(path: str | Path | io.BufferedIOBase) -> Iterator[None]:
    """
    Turn any exception in this block, as a damaged file can cause any, into a ValueError that names the file. Open it before: a
    missing file is another error.
    """
    try:
        yield
    except Exception as error:
        raise ValueError(
            f"path={path} cannot be read: it is truncated or damaged, or was saved by something else "
            f"({type(error).__name__}: {error})."
        ) from error


def check_entries(archive: zipfile.ZipFile, names: Iterable[str]) -> None:
    """:raises zipfile.BadZipFile: or another exception, if one of the named entries has changed since it was written"""
    for name in names:
        with archive.open(name) as entry:
            while entry.read(CHUNK):  # the checksum is verified at the end
                pass


def write_object(archive: zipfile.ZipFile, name: str, thing: Any) -> None:
    """Pickle an object into an archive, with its arrays as separate entries, so that they are not copied."""
    buffers: list[pickle.PickleBuffer] = []
    archive.writestr(f"{name}/pickle", pickle.dumps(thing, protocol=5, buffer_callback=buffers.append))
    for number, buffer in enumerate(buffers):
        with archive.open(f"{name}/{number}", "w", force_zip64=True) as file, buffer.raw() as raw:
            for start in range(0, len(raw), CHUNK):
                file.write(raw[start : start + CHUNK])


def read_object(file: BinaryIO, archive: zipfile.ZipFile, name: str) -> Any:
    """
    :return: what :func:`write_object` wrote to the archive in the open file, without compression
    :raises zipfile.BadZipFile: or another exception, if it has changed since it was written
    """
    in_archive = {entry.filename: entry for entry in archive.infolist()}
    entries: list[zipfile.ZipInfo] = []
    while (number := f"{name}/{len(entries)}") in in_archive:
        entries.append(in_archive[number])
    pickled = archive.read(f"{name}/pickle")
    buffers = [_content(file, entry) for entry in entries]
    thing = pickle.loads(pickled, buffers=buffers)
    released = [_released(buffer) for buffer in buffers]
    if not all(released):  # the object did not copy these arrays: it would keep the file open, on Windows even its name
        del thing
        buffers = [(_content if copied else _read)(file, entry) for entry, copied in zip(entries, released, strict=True)]
        thing = pickle.loads(pickled, buffers=buffers)
    return thing


def _released(buffer: memoryview | bytearray) -> bool:
    """:return: whether a buffer of :func:`_content` no longer keeps the file mapped"""
    if isinstance(buffer, bytearray):
        return True
    mapping = buffer.obj
    assert isinstance(mapping, mmap.mmap)
    try:
        buffer.release()
        mapping.close()
    except BufferError:
        return False
    return True


def _start(file: BinaryIO, entry: zipfile.ZipInfo) -> int:
    """:return: offset of an uncompressed entry's content"""
    file.seek(entry.header_offset + 26)  # lengths of the two variable-length fields that follow
    name_length, extra_length = (int.from_bytes(file.read(2), "little") for _ in range(2))
    return entry.header_offset + 30 + name_length + extra_length


def _read(file: BinaryIO, entry: zipfile.ZipInfo) -> bytearray:
    """:return: an uncompressed entry's content, in its own memory; shorter if the file is truncated"""
    file.seek(_start(file, entry))
    content = bytearray(entry.file_size)
    del content[file.readinto(content) :]  # type: ignore[attr-defined]
    return content


def _content(file: BinaryIO, entry: zipfile.ZipInfo) -> memoryview | bytearray:
    """
    An uncompressed entry's content; if large, mapped from the file, so that copying it does not need the memory twice. Raises
    zipfile.BadZipFile if it has changed since it was written.
    """
    size = entry.file_size
    if size < MAPPED:
        content: memoryview | bytearray = _read(file, entry)
    else:
        start = _start(file, entry)
        content = memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY))[start : start + size]
    checksum = 0
    for begin in range(0, len(content), CHUNK):
        checksum = zlib.crc32(content[begin : begin + CHUNK], checksum)
    if checksum != entry.CRC or len(content) != size:
        raise zipfile.BadZipFile(f"{entry.filename} has changed since it was written")
    return content


def save_object(path: str | Path, thing: Any) -> None:
    """Pickle an object to a file, atomically."""
    with atomic_write(Path(path)) as temporary, zipfile.ZipFile(temporary, "w") as archive:
        write_object(archive, OBJECT, thing)


def load_object(path: str | Path) -> Any:
    """
    :return: what :func:`save_object` saved
    :raises ValueError: if the file is something else, or is incomplete
    """
    with open(path, "rb") as file, reading(path), zipfile.ZipFile(file) as archive:
        return read_object(file, archive, OBJECT)
