"""Prompt tables in Parquet: reads row groups in pieces that bound memory."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from sdbatch.errors import InputError
from sdbatch.prompts.input_file import InputFile
from sdbatch.prompts.text import PIECE_BYTES
from sdbatch.storage.parquet import dictionary_bytes, opened_parquet
from sdbatch.storage.store import Store

__all__ = ["FORMAT", "numbered", "parquet_batches"]

FORMAT = "parquet"
COLUMN_BYTES = 4 << 20  # of each column, read at a time
MAX_ROWS = 16_384  # decoded at a time
MAX_PIECE_BYTES = 512 << 20  # of a piece, if each of its values were the largest one


def parquet_batches(
    file: InputFile,
    needed: list[str],
    ranges: Sequence[tuple[int, int]],
    options: Mapping[str, Any] | None,
    content: bytes | None = None,
) -> Iterator[tuple[int, pa.RecordBatch]]:
    """The first row and the needed columns of pieces of each row group that one of the ranges touches.

    Raises:
        InputError: the file is damaged, or has another number of rows than planned.
        StorageError: the store failed.
    """
    store = Store(file.path, options)
    with opened_parquet(store, "", InputError, piece=COLUMN_BYTES, content=content) as parquet:
        if (rows := parquet.metadata.num_rows) != file.rows:
            raise InputError(f"{file.path}: has {rows:,} rows; when planned it had {file.rows:,}")
        yield from _pieces(file, store, parquet, needed, ranges)


def _pieces(
    file: InputFile, store: Store, parquet: pq.ParquetFile, needed: list[str], ranges: Sequence[tuple[int, int]]
) -> Iterator[tuple[int, pa.RecordBatch]]:
    start, waiting = 0, deque(ranges)
    for number, rows in enumerate(file.row_groups):
        while waiting and sum(waiting[0]) <= start:
            waiting.popleft()
        if waiting and waiting[0][0] < start + rows:
            # Arrow raises when it reads a damaged chunk, but crashes when it inspects one: read first.
            head = next(parquet.iter_batches(1, row_groups=[number], use_threads=False), None)
            if head is not None and rows == head.num_rows:  # a table of many files has few rows in each
                yield start, head.select(needed)
                start += rows
                continue
            size = _rows_per_read(store, parquet.metadata.row_group(number))
            batches = parquet.iter_batches(size, row_groups=[number], columns=needed, use_threads=False)
            # Arrow treats a name as a path prefix, and may return more columns than requested.
            yield from ((start + at, batch) for at, batch in numbered(batches, needed))
        start += rows


def numbered(batches: Iterable[pa.RecordBatch], needed: list[str]) -> Iterator[tuple[int, pa.RecordBatch]]:
    """The needed columns of each batch, with the number of its first row."""
    at = 0
    for batch in batches:
        yield at, batch.select(needed)
        at += batch.num_rows


def _rows_per_read(store: Store, group: pq.RowGroupMetaData) -> int:
    """The number of rows to decode at a time, so that even a malicious file takes little memory.

    A dictionary of one long text, and a thousand rows that refer to it, take few bytes in a file.
    """
    rows = min(MAX_ROWS, PIECE_BYTES * group.num_rows // max(1, group.total_byte_size))
    for place in range(group.num_columns):
        chunk = group.column(place)
        values_per_row = -(-chunk.num_values // max(1, group.num_rows))
        largest = max(8, dictionary_bytes(store, "", chunk))
        rows = min(rows, MAX_PIECE_BYTES // (largest * max(1, values_per_row)))
    return max(1, rows)
