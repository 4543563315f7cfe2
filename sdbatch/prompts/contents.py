"""Fetches many small files as a whole and in parallel, while earlier ones are processed."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from typing import Any

from sdbatch.storage.store import Store

__all__ = ["SMALL_FILE_BYTES", "contents"]

SMALL_FILE_BYTES = 1 << 20


def contents(paths: list[str], options: Mapping[str, Any] | None) -> Iterator[bytes]:
    """The files' contents in order; up to 64 files are fetched ahead. Raises `StorageError`."""
    if not paths:
        return iter(())
    folders = [path.rpartition("/")[0] + "/" for path in paths]
    # Not os.path.commonpath, which turns s3:// into s3:/; cut back to a whole folder.
    folder = os.path.commonprefix(folders).rpartition("/")[0]  # noqa: RUF071
    return Store(folder, options).read_many(path[len(folder) + 1 :] for path in paths)
