"""Reads shards of the prompt table: each row group is decoded once, in pieces that bound memory."""

from __future__ import annotations

from collections.abc import Container, Iterable, Iterator, Mapping, Sequence
from itertools import chain, groupby
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.types as pt

from sdbatch.errors import InputError
from sdbatch.prompts import single
from sdbatch.prompts.arrow_files import FORMAT as ARROW
from sdbatch.prompts.arrow_files import arrow_batches
from sdbatch.prompts.columns import SOURCES, Columns
from sdbatch.prompts.contents import SMALL_FILE_BYTES, stamped_contents
from sdbatch.prompts.input_file import InputFile
from sdbatch.prompts.made_rows import FORMAT as MADE
from sdbatch.prompts.made_rows import made_batches
from sdbatch.prompts.parquet_files import FORMAT as PARQUET
from sdbatch.prompts.parquet_files import numbered, parquet_batches
from sdbatch.prompts.partitions import constant_column
from sdbatch.prompts.pieces import Piece
from sdbatch.prompts.prompt_files import FORMAT as PROMPT_FILE
from sdbatch.prompts.prompt_files import prompt_batch
from sdbatch.prompts.text import text_pieces
from sdbatch.prompts.types import as_plain, is_text
from sdbatch.prompts.unified import as_unified, own_names
from sdbatch.prompts.workbooks import FORMAT as WORKBOOK
from sdbatch.prompts.workbooks import workbook_batches
from sdbatch.storage.store import Fetched, Store

__all__ = ["mended_texts", "read_rows", "read_table"]

MENDED = b"sdbatch.mended_texts"

MAX_TABLE_BYTES = 1 << 30  # of a shard's rows


def read_table(
    files: Mapping[int, InputFile] | Sequence[InputFile],
    columns: Columns,
    spans: Sequence[Sequence[Piece]],
    options: Mapping[str, Any] | None = None,
) -> Iterator[pa.Table]:
    """The rows of each span of the table, as one table per span, with only the needed columns.

    Args:
        files: the input files of the spans, by number.
        spans: the pieces of each span, in the order of the table, without overlaps.

    Up to 64 small files (at most 1 MB) are fetched ahead of decoding. A column that is all null in some files of a
    span, and has type null there, gets its type from the other files.

    Raises as `read_rows` does.
    """
    wanted = [
        (files[number], [(piece.first_row, piece.rows) for piece in pieces])
        for number, pieces in groupby(chain.from_iterable(spans), key=lambda piece: piece.file)
    ]
    tables = _tables(wanted, columns, options)
    for span in spans:
        parts, size = [], 0
        for piece in span:
            parts.append(next(tables))
            size += _bytes(parts[-1])
            if size > MAX_TABLE_BYTES:
                raise _too_large(files[piece.file].path, piece.first_row, piece.first_row + piece.rows)
        yield parts[0] if len(parts) == 1 else _marked(_joined(parts), sum(map(mended_texts, parts)))


def _tables(
    wanted: list[tuple[InputFile, list[tuple[int, int]]]], columns: Columns, options: Mapping[str, Any] | None
) -> Iterator[pa.Table]:
    """The tables of all ranges of all files, in order."""
    small = [file.path for file, _ in wanted if _is_small(file)] if len(wanted) > 1 else []
    found = stamped_contents(small, options)
    for file, ranges in wanted:
        fetched = next(found) if small and _is_small(file) else None
        yield from read_rows(file, columns, ranges, options, fetched)


def _is_small(file: InputFile) -> bool:
    return file.format != single.FORMAT and 0 < file.size <= SMALL_FILE_BYTES


def _joined(parts: list[pa.Table]) -> pa.Table:
    """Join many small tables into one, with one chunk per column unless dictionaries would have to be merged."""
    table = pa.concat_tables([part.replace_schema_metadata() for part in parts], promote_options="default")
    merged = [column if _has_dictionary(column.type) else column.combine_chunks() for column in table.columns]
    return pa.table(merged, schema=table.schema)


def _has_dictionary(kind: pa.DataType) -> bool:
    # The index type of many small dictionaries may be too narrow for their union.
    return pt.is_dictionary(kind) or any(_has_dictionary(kind.field(i).type) for i in range(kind.num_fields))


def _bytes(table: pa.Table | pa.RecordBatch) -> int:
    """The size of the columns once dictionaries of texts are written out."""
    return sum(_written_out(column) if pt.is_dictionary(column.type) else column.nbytes for column in table.columns)


def _written_out(column: pa.Array | pa.ChunkedArray) -> int:
    if not is_text(column.type.value_type):
        return 0
    chunks = column.chunks if isinstance(column, pa.ChunkedArray) else [column]
    return sum(pc.sum(pc.binary_length(chunk.dictionary).take(chunk.indices)).as_py() or 0 for chunk in chunks)


def _too_large(path: str, first: int, end: int) -> InputError:
    return InputError(
        f"{path}: rows {first:,} to {end - 1:,} hold more than {MAX_TABLE_BYTES / 2**30:g} GB; "
        "make shards smaller (--shard-size), or leave the largest column out of the table"
    )


def read_rows(
    file: InputFile,
    columns: Columns,
    ranges: Iterable[tuple[int, int]],
    options: Mapping[str, Any] | None = None,
    fetched: Fetched | None = None,
) -> Iterator[pa.Table]:
    """The rows of each range (first row, number of rows), as one table per range, with only the needed columns.

    Ranges are in ascending order and do not overlap. A row group in several ranges is decoded once; one in no range is
    not read. `fetched` is the file's content if it has been read already.

    Raises:
        InputError: the file is damaged, has changed since it was planned, or has rows too large for a shard.
        StorageError: the store failed.
    """
    wanted = list(ranges)
    if file.format == single.FORMAT:
        yield from (_with_sources(single.prompt_table(file.path), file, columns, first) for first, _ in wanted)
        return
    own = {name: name for name in columns.needed}
    if columns.table is not None:
        own = own_names(file, columns.table, columns.needed)
    needed = [name for name in own.values() if name not in file.partitions]
    _refuse_changed(file, options, fetched)
    if needed:
        carried = {before for name, before in own.items() if name in columns.carried}
        tables = _own_rows(file, carried, needed, wanted, options, fetched.content if fetched else None)
    else:
        tables = (_no_columns(rows) for _, rows in wanted)
    for (first, _), table in zip(wanted, tables, strict=True):
        names = [name for name, before in own.items() if before not in file.partitions]
        if names != needed:  # `rename_columns` drops the number of repaired texts
            table = table.rename_columns(names).replace_schema_metadata(table.schema.metadata)
        yield _with_sources(_with_partitions(table, file, columns), file, columns, first)


def _own_rows(
    file: InputFile,
    carried: Container[str],
    needed: list[str],
    wanted: list[tuple[int, int]],
    options: Mapping[str, Any] | None,
    content: bytes | None,
) -> Iterator[pa.Table]:
    schema = pa.schema([file.schema.field(name) for name in needed])
    if file.format == PARQUET:
        found = parquet_batches(file, needed, wanted, options, content)
    elif file.format == ARROW:
        found = arrow_batches(file, needed, wanted, options, content)
    elif file.format == MADE:
        found = numbered(made_batches(file, needed, options, content), needed)
    else:
        found = numbered(_plain_pieces(file, options, content), needed)
        yield from _cut(((at, piece, None) for at, piece in found), wanted, file, schema)
        return
    yield from _cut(((at, *as_plain(piece, schema, carried)) for at, piece in found), wanted, file, schema)


def _plain_pieces(
    file: InputFile, options: Mapping[str, Any] | None, content: bytes | None
) -> Iterator[pa.RecordBatch]:
    """The batches of formats whose columns are plain already."""
    if file.format == PROMPT_FILE:
        return iter([prompt_batch(file, options, content)])
    if file.format == WORKBOOK:
        return workbook_batches(file, options, content)
    return text_pieces(file, options, content)


def _no_columns(rows: int) -> pa.Table:
    return pa.table({"": pa.nulls(rows)}).select([])


def _with_partitions(table: pa.Table, file: InputFile, columns: Columns) -> pa.Table:
    """Add the needed columns of the file's partitions to the table, and those that only other files have."""
    rows, added = table.num_rows, [name for name in columns.needed if name in file.partitions]
    for name in added:
        column = file.schema.field(name)
        table = table.append_column(column, constant_column(file.partitions[name], column.type, rows))
    if columns.table is not None:
        return as_unified(table, columns.table, columns.needed)
    return table.select(columns.needed) if added else table


def _with_sources(table: pa.Table, file: InputFile, columns: Columns, first_row: int) -> pa.Table:
    """Add the columns that give each row's file and row number to the table."""
    rows = table.num_rows
    values = {
        "source_file": lambda: constant_column(file.name, SOURCES["source_file"], rows),
        "source_row": lambda: pa.array(np.arange(first_row, first_row + rows, dtype=np.int64)),
    }
    for name in columns.sources:
        table = table.append_column(pa.field(name, SOURCES[name]), values[name]())
    return table


def _refuse_changed(file: InputFile, options: Mapping[str, Any] | None, fetched: Fetched | None) -> None:
    """Reject a file that differs from the planned one, by the stamp in the manifest."""
    now = fetched or next((found for found in Store(file.path, options).files() if found.path == file.path), None)
    if now is None:
        raise InputError(f"{file.path}: existed when the run was planned, but is missing now")
    if (now.size, now.stamp) != (file.size, file.stamp):
        raise InputError(
            f"{file.path}: has changed since the run was planned ({file.size:,} bytes then, {now.size:,} now)"
        )


def _cut(
    pieces: Iterator[tuple[int, pa.RecordBatch, np.ndarray | None]],
    ranges: list[tuple[int, int]],
    file: InputFile,
    schema: pa.Schema,
) -> Iterator[pa.Table]:
    start, piece, mended = 0, None, None
    for first, count in ranges:
        if not 0 <= first <= first + count <= file.rows:
            raise ValueError(f"rows {first} to {first + count} of {file.path}, which has {file.rows}")
        at, parts, size, texts = first, [], 0, 0
        while at < first + count:
            while piece is None or start + piece.num_rows <= at:
                start, piece, mended = next(pieces, (file.rows, None, None))
                if piece is None or start > at:
                    raise InputError(f"{file.path}: is damaged; row {at:,} is not where the file says it is")
            parts.append(piece.slice(at - start, first + count - at))
            if mended is not None:
                texts += int(mended[at - start :][: parts[-1].num_rows].sum())
            at += parts[-1].num_rows
            size += _bytes(parts[-1])
            if size > MAX_TABLE_BYTES:
                raise _too_large(file.path, first, at)
        yield _marked(pa.Table.from_batches(parts, schema), texts)


def _marked(table: pa.Table, mended: int) -> pa.Table:
    """The table, with the number of repaired texts in its metadata."""
    return table.replace_schema_metadata({MENDED: str(mended)}) if mended else table


def mended_texts(table: pa.Table) -> int:
    """The number of carried texts that were not UTF-8, in which U+FFFD now replaces the invalid bytes."""
    return int((table.schema.metadata or {}).get(MENDED, 0))
