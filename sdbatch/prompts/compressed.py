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

__all__ = ["DAMAGED", "inner_name", "packed_as", "unpacked"]

DAMAGED = (EOFError, gzip.BadGzipFile, zlib.error, lzma.LZMAError)
"""Errors of truncated files and of files that are not in the format of their name. bz2 and zstd raise OSError."""
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


# Each is a readable binary file, whatever its class.
_OPENERS: dict[str, Callable[[BinaryIO], Any]] = {
    ".gz": lambda file: gzip.GzipFile(fileobj=file),
    ".bz2": bz2.BZ2File,
    ".xz": lzma.LZMAFile,
    ".zst": lambda file: io.BufferedReader(_Zstandard(file)),
}


# How files begin that are compressed, by the suffix that they should have.
_BEGINNINGS = {".gz": b"\x1f\x8b\x08", ".bz2": b"BZh", ".xz": b"\xfd7zXZ\x00", ".zst": b"\x28\xb5\x2f\xfd"}
_FIRST_BLOCK = b"1AY&SY"  # of bz2, after the digit of its level


def packed_as(head: bytes) -> str | None:
    """The suffix of the compression of a file that begins with these 10 bytes; None if it is not compressed."""
    ending = next((ending for ending, start in _BEGINNINGS.items() if head.startswith(start)), None)
    return None if ending == ".bz2" and head[4:] != _FIRST_BLOCK else ending


def inner_name(path: str) -> str:
    """The path without the suffix of its compression."""
    ending = next((ending for ending in _OPENERS if path.lower().endswith(ending)), "")
    return path[: len(path) - len(ending)]


def unpacked(path: str, file: BinaryIO) -> BinaryIO:
    """The file's text, unpacked by the suffix of its name."""
    opener = _OPENERS.get(path[len(inner_name(path)) :].lower())
    return file if opener is None else opener(file)
