"""Atomic writes on local disks: a file is complete or absent, even if a process is killed."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from uuid import uuid4

__all__ = ["create_whole", "remove_folder", "replace_whole"]


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
