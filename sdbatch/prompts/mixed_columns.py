"""Columns of JSON Lines whose values are text in some rows and numbers or flags in others: they become text."""

from __future__ import annotations

import json
from collections.abc import Collection
from typing import Any

import pyarrow as pa
import pyarrow.types as pt

__all__ = ["as_texts", "joined_schema", "mixed_columns"]


def mixed_columns(lines: bytes) -> list[str]:
    """The columns whose values are of more than one kind of text, number and flag."""
    kinds: dict[str, set[type]] = {}
    for row in _rows(lines) or ():
        for name, value in row.items():
            if isinstance(value, str | int | float):
                kinds.setdefault(name, set()).add(float if type(value) is int else type(value))
    return [name for name, found in kinds.items() if len(found) > 1]


def as_texts(lines: bytes, columns: Collection[str]) -> bytes | None:
    """The lines, with the numbers and flags in some columns written as text; None if a line is not one object."""
    rows = _rows(lines)
    if rows is None:
        return None
    for row in rows:
        row |= {name: json.dumps(row[name]) for name in columns if isinstance(row.get(name), int | float)}
    return "".join(json.dumps(row) + "\n" for row in rows).encode()


def joined_schema(known: pa.Schema, other: pa.Schema) -> pa.Schema:
    """Both schemas as one, in which columns of different kinds of single values are text.

    Raises:
        pa.ArrowInvalid, pa.ArrowTypeError: two types have nothing in common.
    """
    types = {field.name: field.type for field in known}
    for field in other:
        kinds = (types.get(field.name, pa.null()), field.type)
        is_mixed = all(map(_is_single, kinds)) and len(set(map(_kind, kinds))) > 1
        pair = [pa.schema([(field.name.encode(), pa.string() if is_mixed else kind)]) for kind in kinds]
        types[field.name] = pa.unify_schemas(pair, promote_options="permissive").field(0).type
    return pa.schema([(name.encode(), kind) for name, kind in types.items()])


def _rows(lines: bytes) -> list[dict[str, Any]] | None:
    try:
        rows = [json.loads(line) for line in lines.split(b"\n") if line.strip()]
    except (ValueError, RecursionError):
        return None
    return rows if all(isinstance(row, dict) for row in rows) else None


def _is_single(kind: pa.DataType) -> bool:
    return not pt.is_nested(kind) and not pt.is_null(kind)


def _kind(kind: pa.DataType) -> str:
    if pt.is_integer(kind) or pt.is_floating(kind) or pt.is_decimal(kind):
        return "number"
    return "flag" if pt.is_boolean(kind) else "time" if pt.is_temporal(kind) else "text"
