"""Lends Python files to Arrow, whose readers read ahead in a thread of their own, even after they are closed."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import BinaryIO

import pyarrow as pa

__all__ = ["copied", "lent"]

LAST_READ_S = 0.1  # a reader that has read ahead as far as it may does not read on


def copied(content: bytes | memoryview) -> pa.NativeFile:
    """A file with this content, in Arrow's own memory, which its threads can release at any time."""
    memory = pa.BufferOutputStream()
    memory.write(content)
    return pa.BufferReader(memory.getvalue())


@contextmanager
def lent(file: BinaryIO) -> Iterator[pa.NativeFile]:
    """The rest of a file, for Arrow. After the block no thread of Arrow's reads from it.

    A thread that is reading a Python file while the interpreter ends would abort the process, or never end.
    """
    loan = _Loan(file)
    try:
        yield pa.PythonFile(loan, "r")
    finally:
        loan.end()


class _Loan:
    closed = False

    def __init__(self, file: BinaryIO) -> None:
        self._file: BinaryIO | None = file
        self._reading = threading.Lock()
        self._at_end = threading.Event()

    def read(self, size: int = -1) -> bytes:
        with self._reading:
            content = self._file.read(size) if self._file is not None else b""
            if not content:
                self._at_end.set()
            return content

    def end(self) -> None:
        """Wait for a read that is under way; every later one finds the end of the file."""
        with self._reading:
            self._file = None
        self._at_end.wait(LAST_READ_S)

    def close(self) -> None:
        """Nothing to do: the file is its owner's."""
