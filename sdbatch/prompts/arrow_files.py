"""Prompt tables in Arrow's own format: `.arrow`, `.feather` and `.ipc`, files or streams, as `datasets` writes them."""

from __future__ import annotations

import io
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import accumulate, pairwise
from typing import Any, BinaryIO

import pyarrow as pa

from sdbatch.errors import InputError
from sdbatch.prompts.arrow_messages import Message, messages
from sdbatch.prompts.input_file import InputFile
from sdbatch.prompts.unfolded_sizes import pieces_of
from sdbatch.prompts.wide_tables import refuse_wide
from sdbatch.storage.store import Store

__all__ = ["ARROW_SUFFIXES", "FORMAT", "arrow_batches", "describe_arrow"]

FORMAT = "arrow"
ARROW_SUFFIXES = (".arrow", ".arrows", ".feather", ".ipc")
READ_AHEAD = 4 << 20
OUR_WORDS = ("is ", "holds ", "has ")


def describe_arrow(
    path: str, options: Mapping[str, Any] | None, content: bytes | None = None
) -> tuple[tuple[int, ...], pa.Schema]:
    """Rows of each record batch, and the columns. No record batch is decoded.

    Raises:
        InputError: it is not in the format of its name, or is cut short.
        StorageError: the store failed.
    """
    with _opened(path, options, content) as file:
        found = messages(file)
        schema = _schema(next(found, None))
        refuse_wide(len(schema.names))  # a name that is not UTF-8 is found here
        return tuple(message.rows for message in found if message.is_batch), schema


def arrow_batches(
    file: InputFile,
    needed: Sequence[str],
    ranges: Sequence[tuple[int, int]],
    options: Mapping[str, Any] | None,
    content: bytes | None = None,
) -> Iterator[tuple[int, pa.RecordBatch]]:
    """The first row and the needed columns of each record batch that one of the ranges touches.

    Raises as `describe_arrow` does.
    """
    starts = [0, *accumulate(file.row_groups)]
    touched = [any(first < end and first + rows > start for first, rows in ranges) for start, end in pairwise(starts)]
    with _opened(file.path, options, content) as source:
        kept = (message for message in messages(source, iter(touched)) if message.content)
        stream = pa.ipc.open_stream(pa.PythonFile(io.BufferedReader(_Contents(kept)), "r"))
        places = [stream.schema.get_field_index(name) for name in needed]
        for start, batch in zip((s for s, is_in in zip(starts, touched, strict=False) if is_in), stream, strict=False):
            columns = [batch.column(place) for place in places]
            for column in columns:
                column.validate()
            whole = pa.RecordBatch.from_arrays(columns, names=list(needed))
            for first, rows in pieces_of(columns, needed, whole.num_rows):
                piece = whole.slice(first, rows)
                piece.validate(full=True)  # Arrow trusts a file's description of its buffers
                yield start + first, piece


def _schema(first: Message | None) -> pa.Schema:
    if first is None:
        raise pa.ArrowInvalid("is empty")
    return pa.ipc.read_schema(pa.py_buffer(first.content))


@contextmanager
def _opened(path: str, options: Mapping[str, Any] | None, content: bytes | None) -> Iterator[BinaryIO]:
    source = Store(path, options).open("", block_size=READ_AHEAD) if content is None else io.BytesIO(content)
    with source as file:
        try:
            yield file
        except (pa.ArrowException, OSError, UnicodeDecodeError) as exc:
            if isinstance(exc, OSError) and exc.errno is not None:  # not Arrow's own
                raise
            reason = (str(exc).strip() or type(exc).__name__).splitlines()[0]
            raise InputError(f"{path}: {reason if reason.startswith(OUR_WORDS) else _damaged(reason)}") from exc


def _damaged(reason: str) -> str:
    return f"is not Arrow's format, or damaged ({repr(reason)[1:-1][:200]})"


class _Contents(io.RawIOBase):
    """The contents of messages as one stream."""

    def __init__(self, found: Iterator[Message]) -> None:
        self._found = found
        self._left = memoryview(b"")

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        if not self._left:
            message = next(self._found, None)
            self._left = memoryview(b"" if message is None else message.content)
        size = min(len(buffer), len(self._left))
        buffer[:size], self._left = self._left[:size], self._left[size:]
        return size
