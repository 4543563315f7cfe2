"""The messages of Arrow's IPC format, checked one by one before Arrow decodes them.

A stream is read from its start, a file by its footer, because not all writers put a readable stream in front of that.
Their flatbuffers are read here, by the layouts of Message.fbs and File.fbs in Arrow's `format` folder.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import BinaryIO

import pyarrow as pa

__all__ = ["MAGIC", "Message", "messages"]

MAGIC = b"ARROW1"
FEATHER_1 = b"FEA1"
CONTINUATION = 0xFFFFFFFF
MAX_HEADER_BYTES = 64 << 20
MAX_BODY_BYTES = 1 << 30  # of a record batch, and unpacked
MAX_ROWS = 2**31 - 1  # of a record batch: other implementations support no more
SCHEMA, DICTIONARY, BATCH = 1, 2, 3
TOO_LARGE = f"holds more than {MAX_BODY_BYTES >> 30} GB in one record batch; write it in smaller ones"
CUT_SHORT = "is cut short"
DAMAGED = "is not Arrow's format, or damaged"
# The place of a table; the table's layout (its size, the table's, the places of version, kind and content); the table:
# the place of its layout, its content, version and kind.
MESSAGE = "<I5H2xiIhB5x"


@dataclass(frozen=True)
class Message:
    """A message of a stream.

    Attributes:
        kind: SCHEMA, DICTIONARY or BATCH.
        rows: of a record batch.
        content: as in a stream; empty if it was skipped.
    """

    kind: int
    rows: int
    content: bytes

    @property
    def is_batch(self) -> bool:
        return self.kind == BATCH


def messages(file: BinaryIO, wanted: Iterator[bool] | None = None) -> Iterator[Message]:
    """The messages of a file that is open at its start.

    Args:
        wanted: for each record batch, in order, whether its content is; by default none is, and only rows are counted.

    Raises:
        pa.ArrowInvalid: it is not Arrow's format, is damaged, or holds too much in one record batch.
    """
    head = file.read(8)
    if head.startswith(FEATHER_1):
        raise pa.ArrowInvalid("is Feather version 1, which is not read; write it as version 2, or as Parquet")
    file.seek(0)
    try:
        yield from _of_file(file, wanted) if head.startswith(MAGIC) else _of_stream(file, wanted)
    except (struct.error, IndexError, ValueError) as exc:
        if isinstance(exc, pa.ArrowException):
            raise
        raise pa.ArrowInvalid(DAMAGED) from exc


def _of_stream(file: BinaryIO, wanted: Iterator[bool] | None) -> Iterator[Message]:
    while header := _header(file):
        yield _read(file, header, wanted)


def _of_file(file: BinaryIO, wanted: Iterator[bool] | None) -> Iterator[Message]:
    footer, end = _footer(file)
    table = _Table(footer)
    yield Message(SCHEMA, 0, _schema_message(footer, table.target(1)))
    blocks = [block for field in (2, 3) if table.has(field) for block in table.structs(field, "<qi4xq")]
    # Overlapping blocks would make a small file arbitrarily large.
    if any(min(block) < 0 for block in blocks) or sum(head + body for _, head, body in blocks) > end:
        raise pa.ArrowInvalid(DAMAGED)
    for offset, _, _ in blocks:
        file.seek(offset)
        header = _header(file)
        if not header:
            raise pa.ArrowInvalid(DAMAGED)
        yield _read(file, header, wanted)


def _footer(file: BinaryIO) -> tuple[bytes, int]:
    """The flatbuffer at the end of a file, and where it begins."""
    last = 4 + len(MAGIC)
    end = file.seek(0, 2) - last
    file.seek(max(0, end))
    tail = file.read()
    if end < 8 or not tail.endswith(MAGIC):
        raise pa.ArrowInvalid(CUT_SHORT)
    (size,) = struct.unpack_from("<i", tail)
    if not 0 < size <= min(MAX_HEADER_BYTES, end):
        raise pa.ArrowInvalid(DAMAGED)
    file.seek(end - size)
    return file.read(size), end - size


def _schema_message(footer: bytes, schema: int) -> bytes:
    """The message that a stream would begin with, made from a footer and the place of the schema in it.

    The dictionaries' numbers must stay as they are, so the schema is not serialized again: the message's table is put
    in front of the whole footer and points into it.
    """
    front = struct.calcsize(MESSAGE)
    flat = struct.pack(MESSAGE, 16, 10, 12, 8, 10, 4, 12, front + schema - 20, 4, SCHEMA) + footer
    flat += bytes(-len(flat) % 8)
    return struct.pack("<II", CONTINUATION, len(flat)) + flat


def _header(file: BinaryIO) -> bytes:
    """The next message's flatbuffer with what precedes it; empty at the end."""
    start = file.read(4)
    if start and struct.unpack("<I", start.ljust(4, b"\xff"))[0] == CONTINUATION:
        start += file.read(4)
    if not start:
        return b""
    if len(start) not in (4, 8):
        raise pa.ArrowInvalid(CUT_SHORT)
    (size,) = struct.unpack("<I", start[-4:])
    if size == 0:
        return b""
    if size > MAX_HEADER_BYTES:
        raise pa.ArrowInvalid(DAMAGED)
    flat = file.read(size)
    if len(flat) < size:
        raise pa.ArrowInvalid(CUT_SHORT)
    return start + flat


def _read(file: BinaryIO, header: bytes, wanted: Iterator[bool] | None) -> Message:
    table = _Table(header[8 if header.startswith(b"\xff\xff\xff\xff") else 4 :])
    kind, size = table.number(1, "<B"), table.number(3, "<q")
    if not 0 <= size <= MAX_BODY_BYTES:
        raise pa.ArrowInvalid(TOO_LARGE)
    if kind not in (DICTIONARY, BATCH):
        return Message(kind, 0, header + _body(file, size))
    batch = table.table(2) if kind == BATCH else table.table(2).table(1)
    rows = batch.number(0, "<q")
    if not 0 <= rows <= MAX_ROWS:
        raise pa.ArrowInvalid(DAMAGED)
    if kind == BATCH and (wanted is None or not next(wanted, False)):
        _skip(file, size)
        return Message(kind, rows, b"")
    body = _body(file, size)
    if batch.has(3) and _unpacked(batch, body) > MAX_BODY_BYTES:
        raise pa.ArrowInvalid(TOO_LARGE)
    return Message(kind, rows, header + body)


def _body(file: BinaryIO, size: int) -> bytes:
    body = file.read(size)
    if len(body) < size:
        raise pa.ArrowInvalid(CUT_SHORT)
    return body


def _skip(file: BinaryIO, size: int) -> None:
    if size:
        file.seek(size - 1, 1)
        if not file.read(1):
            raise pa.ArrowInvalid(CUT_SHORT)


def _unpacked(batch: _Table, body: bytes) -> int:
    """Bytes of a packed batch's buffers once they are unpacked: each begins with its own length."""
    total = 0
    for offset, size in batch.structs(2, "<qq"):
        if size >= 8:
            (length,) = struct.unpack_from("<q", body, offset)
            total += size if length < 0 else length
    return total


class _Table:
    """A table of a flatbuffer, read by the numbers of its fields. A missing field is 0."""

    def __init__(self, data: bytes, at: int | None = None) -> None:
        self._data = data
        self._at = struct.unpack_from("<I", data, 0)[0] if at is None else at
        start = self._at - struct.unpack_from("<i", data, self._at)[0]
        if start < 0:
            raise ValueError("a table is outside its buffer")
        size = struct.unpack_from("<H", data, start)[0]
        self._places = struct.unpack_from(f"<{max(0, size - 4) // 2}H", data, start + 4)

    def has(self, field: int) -> bool:
        return field < len(self._places) and self._places[field] != 0

    def number(self, field: int, form: str) -> int:
        if not self.has(field):
            return 0
        return int(struct.unpack_from(form, self._data, self._at + self._places[field])[0])

    def table(self, field: int) -> _Table:
        return _Table(self._data, self.target(field))

    def structs(self, field: int, form: str) -> Iterator[tuple[int, ...]]:
        """The entries of a vector of structs."""
        place = self.target(field)
        (count,) = struct.unpack_from("<I", self._data, place)
        size = struct.calcsize(form)
        if place + 4 + count * size > len(self._data):
            raise ValueError("a vector is outside its buffer")
        yield from struct.iter_unpack(form, self._data[place + 4 : place + 4 + count * size])

    def target(self, field: int) -> int:
        """The start of what the field points to."""
        if not self.has(field):
            raise ValueError("a field is missing")
        place = self._at + self._places[field]
        return place + int(struct.unpack_from("<I", self._data, place)[0])
