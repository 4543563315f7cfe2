"""What the cells of a table name, such as networks and LoRA files: each once, with the first row that has it."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from sdbatch.fields import Field
from sdbatch.prompts import Columns, InputFile, Piece, read_table
from sdbatch.prompts.cells import read_cells

__all__ = ["named_cells"]

ROWS_AT_ONCE = 16_384


def named_cells(
    files: Sequence[InputFile], columns: Columns, fields: Sequence[Field], options: Mapping[str, Any] | None
) -> Iterator[tuple[Field, str, int, Any]]:
    """The distinct values of some settings' columns, from one pass over the table that reads only these.

    Yields each with its field, its file's path and its row in the file, from 0; a value may occur more than once. Cells
    that cannot be read fail only their rows, and are yielded as `read_cells` returns them.

    Args:
        fields: those without a column are left out.
        options: fsspec storage options.
    """
    wanted = [field for field in fields if field.name in columns.settings]
    if not wanted:
        return
    own = {field.name: columns.settings[field.name] for field in wanted}
    alone = dataclasses.replace(columns.without_carried(), settings=own)
    pieces = [
        Piece(number, first, min(ROWS_AT_ONCE, file.rows - first))
        for number, file in enumerate(files)
        for first in range(0, file.rows, ROWS_AT_ONCE)
    ]
    for piece, table in zip(pieces, read_table(files, alone, [[piece] for piece in pieces], options), strict=True):
        for field in wanted:
            column = own[field.name]
            values, rows = _distinct(table.column(column))
            cells = read_cells(field, column, values, text=columns.text, wide_seeds=True)
            for row, cell in zip(rows, cells, strict=True):
                yield field, files[piece.file].path, piece.first_row + row, cell


def _distinct(values: pa.ChunkedArray) -> tuple[pa.ChunkedArray, list[int]]:
    """The distinct values of a column and the first row of each; for lists, all values."""
    if pa.types.is_nested(values.type):
        return values, list(range(len(values)))
    table = pa.table({"value": values, "row": pa.array(range(len(values)), pa.int64())})
    first = table.group_by("value", use_threads=False).aggregate([("row", "min")])
    return first.column("value"), pc.cast(first.column("row_min"), pa.int64()).to_pylist()
