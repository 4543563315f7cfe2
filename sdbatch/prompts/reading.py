"""Reading shards out of the prompt table: each row group is decoded once, in pieces that bound memory."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from sdbatch.errors import InputError
from sdbatch.parquet import opened_parquet
from sdbatch.prompts import single
from sdbatch.prompts.columns import Columns
from sdbatch.prompts.inputs import InputFile
from sdbatch.storage import Store

__all__ = ["read_rows"]

PIECE_BYTES = 16 << 20  # decoded at a time
COLUMN_BYTES = 4 << 20  # of each column, read at a time
MOST_ROWS = 16_384  # decoded at a time


def read_rows(
    file: InputFile,
    columns: Columns,
    ranges: Iterable[tuple[int, int]],
    options: Mapping[str, Any] | None = None,
) -> Iterator[pa.Table]:
    """The rows of each range (first row, number of rows), as one table a range, with the needed columns only.

    Ranges ascend and do not overlap. A row group that several ranges touch is decoded once; one that none
    touches is not read at all.

    Raises:
        InputError: the file is damaged, or no longer the one that was planned.
        StorageError: the store refuses.
    """
    wanted = list(ranges)
    if file.format == single.FORMAT:
        yield from (single.prompt_table(file.path) for _ in wanted)
        return
    with opened_parquet(Store(file.path, options), "", InputError, piece=COLUMN_BYTES) as parquet:
        if parquet.metadata.num_rows != file.rows:
            raise InputError(f"{file.path}: has {parquet.metadata.num_rows:,} rows; when planned it had {file.rows:,}")
        schema = pa.schema([parquet.schema_arrow.field(name) for name in columns.needed])
        yield from _cut(_pieces(file, parquet, columns.needed, wanted), wanted, file, schema)


def _pieces(
    file: InputFile, parquet: pq.ParquetFile, needed: list[str], ranges: list[tuple[int, int]]
) -> Iterator[tuple[int, pa.RecordBatch]]:
    start = 0
    for number, rows in enumerate(file.row_groups):
        if any(first < start + rows and start < first + count for first, count in ranges):
            at = start
            size = _rows_at_a_time(parquet.metadata.row_group(number))
            for batch in parquet.iter_batches(size, row_groups=[number], columns=needed, use_threads=False):
                # Arrow takes a name as the beginning of a path, and may bring more than was asked for.
                yield at, batch.select(needed)
                at += batch.num_rows
        start += rows


def _rows_at_a_time(group: pq.RowGroupMetaData) -> int:
    return max(1, min(MOST_ROWS, PIECE_BYTES * group.num_rows // max(1, group.total_byte_size)))


def _cut(
    pieces: Iterator[tuple[int, pa.RecordBatch]],
    ranges: list[tuple[int, int]],
    file: InputFile,
    schema: pa.Schema,
) -> Iterator[pa.Table]:
    start, piece = 0, None
    for first, count in ranges:
        if not 0 <= first <= first + count <= file.rows:
            raise ValueError(f"rows {first} to {first + count} of {file.path}, which has {file.rows}")
        at, parts = first, []
        while at < first + count:
            while piece is None or start + piece.num_rows <= at:
                start, piece = next(pieces)
            parts.append(piece.slice(at - start, first + count - at))
            at += parts[-1].num_rows
        yield pa.Table.from_batches(parts, schema)
