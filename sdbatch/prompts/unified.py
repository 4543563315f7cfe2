"""One table of files whose columns differ, as DuckDB's `union_by_name` makes it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import pyarrow as pa
import pyarrow.types as pt

from sdbatch.errors import InputError
from sdbatch.prompts.input_file import InputFile
from sdbatch.prompts.types import is_text

__all__ = ["WHOLE_64", "as_unified", "column_names", "unified_schema"]

SHOWN = 6  # of the differences
WHOLE_64 = pa.decimal128(20, 0)  # holds int64 and uint64


def unified_schema(files: Sequence[InputFile]) -> tuple[pa.Schema, str]:
    """The columns of all files by name, in the order in which they first appear, and what differs, in one line.

    A column that a file lacks is null in its rows. Of two types, the one that holds both is taken: of numbers the
    wider, of text and any other single value text.

    Raises:
        InputError: types that cannot be united; names both files and the column.
    """
    first = files[0]
    types: dict[str, pa.DataType] = {field.name: field.type for field in first.schema}
    origin = dict.fromkeys(types, first.path)
    absent: dict[str, str] = {}
    apart: dict[str, dict[str, str]] = {}  # of each column, its types, and a file that has it
    seen: set[int] = {id(first.schema)}
    for file in files[1:]:
        if id(file.schema) in seen or file.schema.equals(first.schema):
            continue
        seen.add(id(file.schema))
        for name in types.keys() - set(file.schema.names):
            absent.setdefault(name, file.path)
        for field in file.schema:
            if field.name not in types:
                types[field.name], origin[field.name] = field.type, file.path
                absent.setdefault(field.name, first.path)
            elif field.type != types[field.name]:
                known = types[field.name]
                types[field.name] = _wider(field.name, known, field.type, file.path, origin[field.name])
                if pt.is_null(known):
                    origin[field.name] = file.path
                elif not pt.is_null(field.type):
                    here = apart.setdefault(field.name, {str(known): origin[field.name]})
                    here.setdefault(str(field.type), file.path)
    if len(seen) == 1:
        return first.schema, ""
    parts = [f"{name!r} is missing in {_name(path)}, and null there" for name, path in absent.items()]
    parts += [f"{name!r} ({_where(found)}) is read as {types[name]}" for name, found in apart.items()]
    more = f"; and {len(parts) - SHOWN:,} more" if len(parts) > SHOWN else ""
    differences = f"the files' columns differ: {'; '.join(parts[:SHOWN])}{more}" if parts else ""
    return pa.schema([(name.encode(), kind) for name, kind in types.items()]), differences


def column_names(files: Sequence[InputFile]) -> list[str]:
    """The names of all files' columns."""
    schemas = {id(file.schema): file.schema for file in files}
    return list(dict.fromkeys(name for schema in schemas.values() for name in schema.names))


def as_unified(table: pa.Table, schema: pa.Schema, names: Sequence[str]) -> pa.Table:
    """The columns `names` of the whole table, from a file's own: missing ones are null, others are cast."""
    columns = []
    for name in names:
        kind, place = schema.field(name).type, table.schema.get_field_index(name)
        if place < 0:
            columns.append(pa.nulls(table.num_rows, kind))
        else:
            column = table.column(place)
            columns.append(column if column.type == kind else column.cast(kind, safe=False))
    fields = [schema.field(name) for name in names]
    return pa.Table.from_arrays(columns, schema=pa.schema(fields, table.schema.metadata))


def _where(found: Mapping[str, str]) -> str:
    return ", ".join(f"{kind} in {_name(path)}" for kind, path in found.items())


def _name(path: str) -> str:
    return path.rpartition("/")[2]


def _wider(name: str, known: pa.DataType, other: pa.DataType, path: str, first: str) -> pa.DataType:
    """The type that holds the values of both."""
    wider = _common(known, other)
    try:
        if wider is not None:
            for kind in (known, other):
                pa.nulls(1, kind).cast(wider)
            return wider
    except pa.ArrowException:
        pass
    raise InputError(f"{path}: column {name!r} holds {other}; in {first} it holds {known}, and no type holds both")


def _common(one: pa.DataType, other: pa.DataType) -> pa.DataType | None:
    one, other = (kind.value_type if pt.is_dictionary(kind) else kind for kind in (one, other))
    kinds = (one, other)
    if one == other or pt.is_null(other):
        return one
    if {one, other} == {pa.int64(), pa.uint64()}:
        return WHOLE_64
    if any(map(is_text, kinds)) and all(map(_is_single, kinds)):
        return pa.large_string() if any(map(pt.is_large_string, kinds)) else pa.string()
    for flag, number in (kinds, kinds[::-1]):
        if pt.is_boolean(flag) and (pt.is_integer(number) or pt.is_floating(number)):
            return number
        if pt.is_date(flag) and pt.is_timestamp(number):
            return number
    try:
        schemas = [pa.schema([("", kind)]) for kind in kinds]
        return pa.unify_schemas(schemas, promote_options="permissive").field(0).type
    except pa.ArrowException:
        return None


def _is_single(kind: pa.DataType) -> bool:
    """Whether values of the type can be written as text without loss."""
    number = pt.is_integer(kind) or pt.is_floating(kind) or pt.is_decimal(kind) or pt.is_boolean(kind)
    return number or pt.is_temporal(kind) or is_text(kind)
