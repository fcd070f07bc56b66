"""Files that are whole or not there, and objects with large arrays in them, streamed."""

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


def resolve_path(path: str | Path, suffix: str) -> Path:
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
def atomic_write(path: Path, shared: bool = False) -> Iterator[Path]:
    """
    What is written to the path given out takes the place of the file at once, when the block ends without an exception.

    Until then the former file is there, however the process dies.

    :param path: the file
    :param shared: whether several processes may write it at the same time; each then has a temporary file of its own
    :return: where to write
    """
    path = Path(os.path.realpath(path))  # a link stays one
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
    Whatever is raised where the file is read in this block, which can be anything if it is damaged, becomes a ValueError.

    :param path: the file, opened before
    :raises ValueError: naming it
    """
    try:
        yield
    except Exception as error:
        raise ValueError(
            f"path={path} cannot be read: it is truncated or damaged, or was saved by something else "
            f"({type(error).__name__}: {error})."
        ) from error


def check_entries(archive: zipfile.ZipFile, names: Iterable[str]) -> None:
    """
    :param archive: an archive
    :param names: of the entries to read; others may be large
    :raises zipfile.BadZipFile: or something else, if one was changed since it was written
    """
    for name in names:
        with archive.open(name) as entry:
            while entry.read(CHUNK):  # at the end it compares the checksum
                pass


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
    :raises zipfile.BadZipFile: or something else, if it was changed since
    """
    in_archive = {entry.filename: entry for entry in archive.infolist()}
    entries: list[zipfile.ZipInfo] = []
    while (number := f"{name}/{len(entries)}") in in_archive:
        entries.append(in_archive[number])
    pickled = archive.read(f"{name}/pickle")
    buffers = [_content(file, entry) for entry in entries]
    thing = pickle.loads(pickled, buffers=buffers)
    released = [_released(buffer) for buffer in buffers]
    if not all(released):  # the object does not copy these arrays: it would keep the file, on Windows even its name
        del thing
        buffers = [(_content if copied else _read)(file, entry) for entry, copied in zip(entries, released, strict=True)]
        thing = pickle.loads(pickled, buffers=buffers)
    return thing


def _released(buffer: memoryview | bytearray) -> bool:
    """
    :param buffer: of :func:`_content`
    :return: whether nobody has the file mapped by it any more
    """
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
    """
    :param file: an open file
    :param entry: uncompressed
    :return: where its bytes begin
    """
    file.seek(entry.header_offset + 26)  # the lengths of two fields of variable length, that follow
    name_length, extra_length = (int.from_bytes(file.read(2), "little") for _ in range(2))
    return entry.header_offset + 30 + name_length + extra_length


def _read(file: BinaryIO, entry: zipfile.ZipInfo) -> bytearray:
    """
    :param file: an open file
    :param entry: uncompressed
    :return: its bytes, in memory of their own; fewer, if the file ends before
    """
    file.seek(_start(file, entry))
    content = bytearray(entry.file_size)
    del content[file.readinto(content) :]  # type: ignore[attr-defined]
    return content


def _content(file: BinaryIO, entry: zipfile.ZipInfo) -> memoryview | bytearray:
    """
    :param file: an open file
    :param entry: uncompressed
    :return: its bytes; from the file itself, if they are many, so that whoever copies them does not need the memory twice
    :raises zipfile.BadZipFile: if they were changed since they were written
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
        raise zipfile.BadZipFile(f"{entry.filename} was changed since it was written")
    return content


def save_object(path: str | Path, thing: Any) -> None:
    """
    :param path: file; it is whole, or what it was before, at any moment
    :param thing: anything that can be pickled
    """
    with atomic_write(Path(path)) as temporary, zipfile.ZipFile(temporary, "w") as archive:
        write_object(archive, OBJECT, thing)


def load_object(path: str | Path) -> Any:
    """
    :param path: file that :func:`save_object` wrote
    :return: what was saved
    :raises ValueError: if it was not, or if it is not whole
    """
    with open(path, "rb") as file, reading(path), zipfile.ZipFile(file) as archive:
        return read_object(file, archive, OBJECT)
