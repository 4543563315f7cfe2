"""Metadata rows as Python values and as JSON, for columns of any type."""

from __future__ import annotations

import base64
import datetime as dt
import json
import math
from collections.abc import Iterator, Mapping
from typing import Any

import pyarrow as pa
import pyarrow.types as pt

__all__ = ["python_rows", "to_json"]

ROWS_PER_PIECE = 256


def python_rows(table: pa.Table) -> Iterator[dict[str, Any]]:
    """The rows as Python values.

    Invalid bytes of a string that is not UTF-8 are replaced; a value that Python lacks, like the year
    20,000, becomes None.
    """
    for start in range(0, table.num_rows, ROWS_PER_PIECE):
        piece = table.slice(start, ROWS_PER_PIECE)
        columns = [_python(column) for column in piece.columns]
        for values in zip(*columns, strict=True):
            yield dict(zip(table.column_names, values, strict=True))


def to_json(row: Mapping[str, Any]) -> bytes:
    """The row as one JSON object.

    Types that JSON lacks are converted: times to ISO 8601, durations to seconds, decimals to text, bytes to base64,
    NaN and infinities to null, maps to lists of key and value.
    """
    return json.dumps(_plain(row), ensure_ascii=False).encode("utf-8", "replace")


def _python(column: pa.ChunkedArray) -> list[Any]:
    try:
        return column.to_pylist()
    except (ValueError, OverflowError):
        return [_python_value(value) for value in column]


def _python_value(value: pa.Scalar) -> Any:
    try:
        return value.as_py()
    except (ValueError, OverflowError):
        text = pt.is_string(value.type) or pt.is_large_string(value.type) or pt.is_string_view(value.type)
        return value.as_buffer().to_pybytes().decode(errors="replace") if text else None


def _plain(value: Any) -> Any:
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_plain(item) for item in value]
    if isinstance(value, tuple):  # an entry of a map
        return {"key": _plain(value[0]), "value": _plain(value[1])}
    if isinstance(value, bytes):
        return base64.b64encode(value).decode()
    if isinstance(value, dt.timedelta):
        return value.total_seconds()
    if isinstance(value, dt.date | dt.time):
        return value.isoformat()
    return str(value)
