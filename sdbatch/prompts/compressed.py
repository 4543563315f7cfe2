"""Reads compressed text files as streams; the unpacked content is never held in memory as a whole."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import zlib
from collections.abc import Callable
from typing import Any, BinaryIO

import pyarrow as pa

__all__ = ["DAMAGED", "inner_name", "unpacked"]

DAMAGED = (EOFError, gzip.BadGzipFile, zlib.error, lzma.LZMAError)
"""Errors of truncated files and of files that are not what their name says. bz2 and zstd raise OSError."""
SKIPPED_BYTES = 1 << 20


class _Shared(io.RawIOBase):
    """A file for a stream that would close it at its own end."""

    def __init__(self, file: BinaryIO):
        self._file = file

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        content = self._file.read(len(buffer))
        buffer[: len(content)] = content
        return len(content)


class _Zstandard(io.RawIOBase):
    """A zstd stream that can seek backwards, by unpacking from the beginning."""

    def __init__(self, file: BinaryIO):
        self._file = file
        self._start()

    def _start(self) -> None:
        self._file.seek(0)
        self._stream = pa.CompressedInputStream(pa.PythonFile(_Shared(self._file), "r"), "zstd")
        self._at = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        content = self._stream.read(len(buffer))
        buffer[: len(content)] = content
        self._at += len(content)
        return len(content)

    def tell(self) -> int:
        return self._at

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        if whence != io.SEEK_SET:
            raise io.UnsupportedOperation("a zstd stream only seeks from its beginning")
        if offset < self._at:
            self._start()
        while self._at < offset and (skipped := self.read(min(SKIPPED_BYTES, offset - self._at))):
            del skipped
        return self._at


_OPENERS: dict[str, Callable[[BinaryIO], BinaryIO]] = {
    ".gz": lambda file: gzip.GzipFile(fileobj=file),
    ".bz2": bz2.BZ2File,
    ".xz": lzma.LZMAFile,
    ".zst": lambda file: io.BufferedReader(_Zstandard(file)),
}


def inner_name(path: str) -> str:
    """The path without the suffix of its compression."""
    ending = next((ending for ending in _OPENERS if path.lower().endswith(ending)), "")
    return path[: len(path) - len(ending)]


def unpacked(path: str, file: BinaryIO) -> BinaryIO:
    """The file's text, unpacked by the suffix of its name."""
    opener = _OPENERS.get(path[len(inner_name(path)) :].lower())
    return file if opener is None else opener(file)
