"""Reads whole files of remote stores, up to a number of bytes, in one request wherever the store allows it."""

from __future__ import annotations

import errno
import inspect
from typing import Any

import fsspec

from sdbatch.storage.storage_errors import client_errors, was_unsatisfiable

__all__ = ["read_at_most", "read_range", "too_large"]


def too_large(max_bytes: float, size: int | None = None) -> OSError:
    """The error of a file with more than `max_bytes` bytes."""
    held = f"it has {size:,} bytes, more than" if size is not None else "it is larger than"
    return OSError(errno.EFBIG, f"{held} the maximum of {max_bytes:,}{'' if size is not None else ' bytes'}")


def read_at_most(fs: fsspec.AbstractFileSystem, path: str, max_bytes: int) -> bytes:
    """The content of a file of at most `max_bytes` bytes. Raises `OSError` with EFBIG for a larger one."""
    if "http" in ([fs.protocol] if isinstance(fs.protocol, str) else fs.protocol):
        content = _streamed(fs, path, max_bytes)
    elif hasattr(type(fs), "_cat_file"):
        content = _ranged(fs, path, max_bytes)
    else:
        with fs.open(path, "rb") as file:
            size = getattr(file, "size", None)
            if size is not None and size > max_bytes:
                raise too_large(max_bytes, size)
            content = file.read() if size is not None else file.read(max_bytes + 1)
    if len(content) > max_bytes:
        raise too_large(max_bytes)
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


def _ranged(fs: fsspec.AbstractFileSystem, path: str, max_bytes: int) -> bytes:
    # Some clients request the size and then read in parts, at the same time, unless they are limited to one.
    in_parts = "max_concurrency" in inspect.signature(type(fs)._cat_file).parameters
    return read_range(fs, path, max_bytes + 1, **({"max_concurrency": 1} if in_parts else {}))


def _streamed(fs: fsspec.AbstractFileSystem, path: str, max_bytes: int) -> bytes:
    """Read an answer piece by piece, because a web server may ignore a range."""
    pieces, left = [], max_bytes + 1
    # With a size, the client does not request it.
    with fs.open(path, "rb", block_size=0, size=1) as file:
        while left > 0 and (piece := file.read(left)):
            pieces.append(piece)
            left -= len(piece)
    return b"".join(pieces)
