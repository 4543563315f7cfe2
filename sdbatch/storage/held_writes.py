"""Holds writes back until they can be committed together, for stores that allow few commits."""

from __future__ import annotations

import os
import tempfile
import threading
import time
from collections.abc import Callable, Iterable
from typing import BinaryIO

from sdbatch.storage.store import Store

__all__ = ["HeldStore", "held"]

DUE_FILES, DUE_BYTES, DUE_SECONDS = 1000, 256 << 20, 300.0


def held(store: Store) -> Store:
    """A store for the same place whose writes may wait until `commit`; the store itself if that has no advantage."""
    return HeldStore(store) if store.has_commits else store


class HeldStore(Store):
    """A store on the Hugging Face hub: what is written and removed becomes one commit.

    Nothing that is held can be read or listed before its commit.
    """

    def __init__(self, store: Store) -> None:
        super().__init__(store.url, store.options)
        self._lock = threading.Lock()
        self._changes: dict[str, bytes | str | None] = {}  # contents, paths of local files, or None: removed
        self._folder: tempfile.TemporaryDirectory[str] | None = None
        self._bytes = 0
        self._since = time.monotonic()

    def write(self, name: str, data: bytes) -> None:
        self._hold(name, data, len(data))

    def replace(self, name: str, data: bytes) -> None:
        self.write(name, data)

    def write_stream(self, name: str, produce: Callable[[BinaryIO], None]) -> None:
        """Write a large file into a temporary folder, until it is committed."""
        with self._lock:
            self._folder = self._folder or tempfile.TemporaryDirectory(prefix="sdbatch-commit-")
        handle, path = tempfile.mkstemp(dir=self._folder.name)
        with os.fdopen(handle, "wb") as file:
            produce(file)
        self._hold(name, path, 0)

    def remove(self, name: str) -> None:
        self._hold(name, None, 0)

    def remove_many(self, names: Iterable[str]) -> None:
        for name in names:
            self.remove(name)

    def commit(self, *, when_due: bool = False) -> None:
        """Commit what is held; with `when_due`, only if that is many files, large, or some minutes old.

        Raises:
            StorageError: the hub refused the commit; everything is still held.
        """
        with self._lock:
            age = time.monotonic() - self._since
            is_due = len(self._changes) >= DUE_FILES or self._bytes >= DUE_BYTES or age >= DUE_SECONDS
            if not self._changes or (when_due and not is_due):
                return
            written = {self._path(name): value for name, value in self._changes.items() if value is not None}
            removed = [self._path(name) for name, value in self._changes.items() if value is None]
            self.retried("write to", "", lambda: self._fs.commit(written, removed))
            self._changes, self._bytes, self._since = {}, 0, time.monotonic()
            if self._folder is not None:
                self._folder.cleanup()
                self._folder = None

    def _hold(self, name: str, value: bytes | str | None, size: int) -> None:
        with self._lock:
            self._changes[name] = value
            self._bytes += size
