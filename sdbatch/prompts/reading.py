"""Reading shards out of the prompt table: each row group is decoded once, in pieces that bound memory."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pyarrow.types as pt

from sdbatch.errors import InputError
from sdbatch.parquet import dictionary_bytes, opened_parquet
from sdbatch.prompts import single
from sdbatch.prompts.columns import Columns
from sdbatch.prompts.inputs import InputFile
from sdbatch.prompts.text import PIECE_BYTES, text_pieces
from sdbatch.storage import Store

__all__ = ["read_rows"]

COLUMN_BYTES = 4 << 20  # of each column, read at a time
MOST_ROWS = 16_384  # decoded at a time
MOST_PIECE_BYTES = 512 << 20  # that a piece may come to if each of its values is the largest that there is
MOST_TABLE_BYTES = 1 << 30  # of a shard's rows


def read_rows(
    file: InputFile, columns: Columns, ranges: Iterable[tuple[int, int]], options: Mapping[str, Any] | None = None
) -> Iterator[pa.Table]:
    """The rows of each range (first row, number of rows), as one table a range, with the needed columns only.

    Ranges ascend and do not overlap. A row group that several ranges touch is decoded once; one that none touches is
    not read at all.

    Raises:
        InputError: the file is damaged, no longer the one that was planned, or has rows too large for a shard.
        StorageError: the store refuses.
    """
    wanted, needed = list(ranges), columns.needed
    if file.format == single.FORMAT:
        yield from (single.prompt_table(file.path) for _ in wanted)
        return
    schema = pa.schema([file.schema.field(name) for name in needed])
    if file.format == "parquet":
        store = Store(file.path, options)
        with opened_parquet(store, "", InputError, piece=COLUMN_BYTES) as parquet:
            if parquet.metadata.num_rows != file.rows:
                raise InputError(
                    f"{file.path}: has {parquet.metadata.num_rows:,} rows; when planned it had {file.rows:,}"
                )
            yield from _cut(_pieces(file, store, parquet, needed, wanted), wanted, file, schema)
    else:
        yield from _cut(_numbered(text_pieces(file, options), needed), wanted, file, schema)


def _pieces(
    file: InputFile, store: Store, parquet: pq.ParquetFile, needed: list[str], ranges: list[tuple[int, int]]
) -> Iterator[tuple[int, pa.RecordBatch]]:
    start = 0
    for number, rows in enumerate(file.row_groups):
        if any(first < start + rows and start < first + count for first, count in ranges):
            # Arrow refuses to read a damaged chunk, but ends the process if asked about one: read before asking.
            next(parquet.iter_batches(1, row_groups=[number], use_threads=False), None)
            size = _rows_at_a_time(store, parquet.metadata.row_group(number))
            batches = parquet.iter_batches(size, row_groups=[number], columns=needed, use_threads=False)
            # Arrow takes a name as the beginning of a path, and may bring more than was asked for.
            yield from ((start + at, batch) for at, batch in _numbered(batches, needed))
        start += rows


def _numbered(batches: Iterable[pa.RecordBatch], needed: list[str]) -> Iterator[tuple[int, pa.RecordBatch]]:
    at = 0
    for batch in batches:
        yield at, batch.select(needed)
        at += batch.num_rows


def _rows_at_a_time(store: Store, group: pq.RowGroupMetaData) -> int:
    """So many rows that they take little memory, and that hostile ones cannot take much.

    A dictionary of one long text, and a thousand rows that refer to it, are a few bytes in the file.
    """
    rows = min(MOST_ROWS, PIECE_BYTES * group.num_rows // max(1, group.total_byte_size))
    for place in range(group.num_columns):
        chunk = group.column(place)
        values_a_row = -(-chunk.num_values // max(1, group.num_rows))
        largest = max(8, dictionary_bytes(store, "", chunk))
        rows = min(rows, MOST_PIECE_BYTES // (largest * max(1, values_a_row)))
    return max(1, rows)


def _cut(
    pieces: Iterator[tuple[int, pa.RecordBatch]], ranges: list[tuple[int, int]], file: InputFile, schema: pa.Schema
) -> Iterator[pa.Table]:
    start, piece = 0, None
    for first, count in ranges:
        if not 0 <= first <= first + count <= file.rows:
            raise ValueError(f"rows {first} to {first + count} of {file.path}, which has {file.rows}")
        at, parts, size = first, [], 0
        while at < first + count:
            while piece is None or start + piece.num_rows <= at:
                start, piece = next(pieces, (file.rows, None))
                if piece is None or start > at:
                    raise InputError(f"{file.path}: is damaged; row {at:,} is not where the file says it is")
            parts.append(piece.slice(at - start, first + count - at))
            at += parts[-1].num_rows
            size += sum(column.nbytes for column in parts[-1].columns if not pt.is_dictionary(column.type))
            if size > MOST_TABLE_BYTES:
                raise InputError(
                    f"{file.path}: rows {first:,} to {at - 1:,} hold more than {MOST_TABLE_BYTES / 2**30:g} GB; "
                    "make shards smaller (--shard-size), or leave the largest column out of the table"
                )
        yield pa.Table.from_batches(parts, schema)
