"""Reads whole files of remote stores, up to a number of bytes, in one request wherever the store allows it."""

from __future__ import annotations

import errno
import inspect
from typing import Any

import fsspec

from sdbatch.storage.storage_errors import client_errors, was_unsatisfiable

__all__ = ["read_at_most", "read_range", "too_large"]


def too_large(most: float, size: int | None = None) -> OSError:
    """The error of a file with more than `most` bytes."""
    held = f"it has {size:,} bytes, more than" if size is not None else "it is larger than"
    return OSError(errno.EFBIG, f"{held} the maximum of {most:,}{'' if size is not None else ' bytes'}")


def read_at_most(fs: fsspec.AbstractFileSystem, path: str, most: int) -> bytes:
    """The content of a file of at most `most` bytes. Raises `OSError` with EFBIG for a larger one."""
    if "http" in ([fs.protocol] if isinstance(fs.protocol, str) else fs.protocol):
        content = _streamed(fs, path, most)
    elif hasattr(type(fs), "_cat_file"):
        content = _ranged(fs, path, most)
    else:
        with fs.open(path, "rb") as file:
            size = getattr(file, "size", None)
            if size is not None and size > most:
                raise too_large(most, size)
            content = file.read() if size is not None else file.read(most + 1)
    if len(content) > most:
        raise too_large(most)
    return content


def read_range(fs: fsspec.AbstractFileSystem, path: str, end: int, **options: Any) -> bytes:
    """The first `end` bytes of a file, or all of a smaller one."""
    try:
        return fs.cat_file(path, start=0, end=end, **options)
    except client_errors() as exc:
        # An empty file has no range.
        if was_unsatisfiable(exc) and not fs.info(path)["size"]:
            return b""
        raise


def _ranged(fs: fsspec.AbstractFileSystem, path: str, most: int) -> bytes:
    # Some clients ask for the size and then read in parts, at the same time, unless they are limited to one.
    in_parts = "max_concurrency" in inspect.signature(type(fs)._cat_file).parameters
    return read_range(fs, path, most + 1, **({"max_concurrency": 1} if in_parts else {}))


def _streamed(fs: fsspec.AbstractFileSystem, path: str, most: int) -> bytes:
    """Read an answer piece by piece, because a web server may ignore a range."""
    pieces, left = [], most + 1
    # With a size, the client does not ask for it.
    with fs.open(path, "rb", block_size=0, size=1) as file:
        while left > 0 and (piece := file.read(left)):
            pieces.append(piece)
            left -= len(piece)
    return b"".join(pieces)
