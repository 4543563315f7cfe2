"""Many small files, fetched whole and many at a time, while those before them are at work."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from typing import Any

from sdbatch.storage.store import Store

__all__ = ["SMALL_FILE_BYTES", "contents"]

SMALL_FILE_BYTES = 1 << 20


def contents(paths: list[str], options: Mapping[str, Any] | None) -> Iterator[bytes]:
    """The files' contents in their order, up to 64 of them ahead. Raises `StorageError`."""
    if not paths:
        return iter(())
    folders = [path.rpartition("/")[0] + "/" for path in paths]
    # Not commonpath, which makes s3:/ of s3://; cut back to a whole folder.
    folder = os.path.commonprefix(folders).rpartition("/")[0]  # noqa: RUF071
    return Store(folder, options).read_many(path[len(folder) + 1 :] for path in paths)
