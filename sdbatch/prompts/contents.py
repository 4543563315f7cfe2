"""Fetches many small files as a whole and in parallel, while earlier ones are processed."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from typing import Any

from sdbatch.storage.store import Fetched, Store

__all__ = ["SMALL_FILE_BYTES", "contents", "stamped_contents"]

SMALL_FILE_BYTES = 1 << 20


def contents(paths: list[str], options: Mapping[str, Any] | None) -> Iterator[bytes]:
    """The files' contents in order; up to 64 files are fetched ahead. Raises `StorageError`."""
    store, names = _together(paths, options)
    return store.read_many(names)


def stamped_contents(paths: list[str], options: Mapping[str, Any] | None) -> Iterator[Fetched]:
    """The contents of files, with their sizes and stamps, as `contents` fetches them."""
    store, names = _together(paths, options)
    return store.fetch_many(names)


def _together(paths: list[str], options: Mapping[str, Any] | None) -> tuple[Store, Iterator[str]]:
    """The store of the folder that holds all these files, and their names in it."""
    # Not os.path.commonpath, which turns s3:// into s3:/; cut back to a whole folder.
    folder = os.path.commonprefix(paths).rpartition("/")[0]  # noqa: RUF071
    return Store(folder or "/", options), (path[len(folder) + 1 :] for path in paths)
