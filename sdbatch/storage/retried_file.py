"""A file in a store whose reads are retried."""

from __future__ import annotations

import io
from typing import Any

from sdbatch.storage.connection import Connection

__all__ = ["RetriedFile"]


class RetriedFile(io.RawIOBase):
    """A file of a store, open for reading; each read is retried on transient failures."""

    def __init__(self, store: Connection, name: str, file: Any) -> None:
        self._store, self._name, self._file, self._at = store, name, file, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        self._at = self._file.seek(offset, whence)
        return self._at

    def tell(self) -> int:
        return self._at

    def readinto(self, buffer: Any) -> int:
        def attempt() -> bytes:
            self._file.seek(self._at)
            return self._file.read(len(buffer))

        data = self._store.retried("read", self._name, attempt)
        buffer[: len(data)] = data
        self._at += len(data)
        return len(data)

    def close(self) -> None:
        self._file.close()
        super().close()
