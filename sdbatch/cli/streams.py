"""Standard output and error that never raise and never pass on control characters."""

from __future__ import annotations

import contextlib
import io
import os
import sys
from collections.abc import Iterator
from typing import Any, TextIO

from sdbatch.cli.words import printable

__all__ = ["harmless_streams"]


@contextlib.contextmanager
def harmless_streams() -> Iterator[None]:
    """Within the block, `sys.stdout` and `sys.stderr` never raise and show no control characters."""
    _fill_closed_descriptors()
    kept = sys.stdout, sys.stderr
    sys.stdout, sys.stderr = (_Harmless(stream) for stream in kept)
    try:
        yield
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        sys.stdout, sys.stderr = kept


def _fill_closed_descriptors() -> None:
    """Fill closed descriptors, or the next file that is opened would become standard output."""
    for descriptor in (0, 1, 2):
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # gets the lowest free number, which is this one


class _Harmless(io.TextIOBase):
    """A text stream over another, or over none. Escapes what cannot be encoded; discards everything after an error."""

    def __init__(self, stream: TextIO | None) -> None:
        self._stream: Any = stream
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def writable(self) -> bool:
        return True

    def isatty(self) -> bool:
        return self._stream is not None and self._stream.isatty()

    def fileno(self) -> int:
        if self._stream is None:
            raise io.UnsupportedOperation("fileno")
        return self._stream.fileno()

    def write(self, text: str) -> int:
        self._try(lambda: self._stream.write(printable(text, keep="\n\r\t")))
        return len(text)

    def flush(self) -> None:
        self._try(lambda: self._stream.flush())

    def _try(self, act: Any) -> None:
        if self._stream is None:
            return
        try:
            act()
        except (OSError, ValueError):  # a full disk, a pipe without a reader, a closed file
            self._give_up()

    def _give_up(self) -> None:
        """Discard what is still buffered, or Python would fail to flush it when it ends."""
        with contextlib.suppress(OSError, ValueError):
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, self._stream.fileno())
            os.close(nowhere)
        self._stream = None
