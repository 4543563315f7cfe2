"""Files on a local disk that are there whole or not at all, whatever is killed."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from uuid import uuid4

__all__ = ["create_whole", "remove_folder", "replace_whole"]


def create_whole(path: str, data: bytes) -> None:
    """Writes a new file. Raises `FileExistsError` where there is one already, whoever wrote it."""
    with _written(path, data) as beside:
        try:
            os.link(beside, path)
        except FileExistsError:
            raise
        except OSError:  # a file system without hard links
            with open(path, "xb") as file:
                file.write(data)


def replace_whole(path: str, data: bytes) -> None:
    """Writes a file in the place of what is there."""
    with _written(path, data) as beside:
        os.replace(beside, path)


def remove_folder(path: str) -> None:
    """Removes a folder if nothing is in it."""
    try:
        os.rmdir(path)
    except OSError:  # somebody else's files are in it, or it is gone
        return


@contextmanager
def _written(path: str, data: bytes) -> Iterator[str]:
    """The data in a file beside `path`, which goes afterwards."""
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
