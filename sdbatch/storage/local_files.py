"""Reads and writes whole files on local disks. A written file is complete or absent, even if a process is killed."""

from __future__ import annotations

import errno
import math
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from uuid import uuid4

from sdbatch.storage.bounded_reads import too_large

__all__ = ["check_regular", "clear_place", "create_whole", "read_whole", "remove_folder", "replace_whole"]


def check_regular(path: str, max_bytes: float = math.inf) -> os.stat_result:
    """The state of a regular file.

    Rejects what could block or fill memory without opening it: pipes, devices, and files that are too large.
    """
    found = os.stat(path)
    if stat.S_ISDIR(found.st_mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
    if not stat.S_ISREG(found.st_mode):
        raise OSError(errno.EINVAL, "it is not a regular file")
    if found.st_size > max_bytes:
        raise too_large(max_bytes, found.st_size)
    return found


def clear_place(folder: str, name: str) -> None:
    """Remove a symbolic link at the place of a file or of its folders below `folder`: a write would go elsewhere.

    Raises:
        OSError: a pipe is there, which would block.
    """
    path = folder
    for part in name.split("/"):
        path = f"{path}/{part}"
        try:
            mode = os.lstat(path).st_mode
        except (FileNotFoundError, NotADirectoryError):
            return
        if stat.S_ISLNK(mode):
            with suppress(FileNotFoundError):  # another thread has removed it
                os.unlink(path)
            return
    if stat.S_ISFIFO(mode):
        raise OSError(errno.EINVAL, "it is a pipe")


def read_whole(path: str, max_bytes: int) -> tuple[bytes, os.stat_result]:
    """The content of a regular file of at most `max_bytes` bytes, and its state when it was opened."""
    check_regular(path, max_bytes)
    with open(path, "rb", buffering=0) as file:
        state = os.fstat(file.fileno())
        return file.readall() if state.st_size else b"", state  # some files of /proc have no size, and block


def create_whole(path: str, data: bytes) -> None:
    """Write a new file. Raises `FileExistsError` if it exists."""
    with _written(path, data) as beside:
        try:
            os.link(beside, path)
        except FileExistsError:
            raise
        except OSError:  # a file system without hard links
            with open(path, "xb") as file:
                file.write(data)


def replace_whole(path: str, data: bytes) -> None:
    """Write a file, replacing an existing one."""
    with _written(path, data) as beside:
        os.replace(beside, path)


def remove_folder(path: str) -> None:
    """Remove a folder if it is empty."""
    try:
        os.rmdir(path)
    except OSError:  # it contains other files, or no longer exists
        return


@contextmanager
def _written(path: str, data: bytes) -> Iterator[str]:
    """A temporary file with the data beside `path`, removed afterwards."""
    folder, name = os.path.split(path)
    os.makedirs(folder, exist_ok=True)
    beside = os.path.join(folder, f".{name}-{uuid4().hex}")
    try:
        with open(beside, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        yield beside
    finally:
        if os.path.exists(beside):
            os.unlink(beside)
