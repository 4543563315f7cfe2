"""One table of files whose columns differ, as DuckDB's `union_by_name` makes it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence

import pyarrow as pa
import pyarrow.types as pt

from sdbatch.errors import InputError
from sdbatch.prompts.input_file import InputFile
from sdbatch.prompts.names import plain
from sdbatch.prompts.types import is_text

__all__ = ["WHOLE_64", "as_unified", "column_names", "own_names", "unified_schema"]

SHOWN = 6  # of the differences
WHOLE_64 = pa.decimal128(20, 0)  # holds int64 and uint64


def unified_schema(files: Sequence[InputFile], known: Collection[str] = ()) -> tuple[pa.Schema, str]:
    """The columns of all files by name, in the order in which they first appear, and what differs, in one line.

    Names that differ only in case, blanks, `-` and `_` are one column, unless a file has two of them. A column that a
    file lacks is null in its rows. Of two types, the one that holds both is taken: of numbers the wider, of text and
    any other single value text.

    Args:
        known: names that are preferred to other spellings.

    Raises:
        InputError: types that cannot be united; names both files and the column.
    """
    first = files[0]
    distinct = {id(file.schema): file for file in reversed(files)}
    distinct = {key: file for key, file in reversed(distinct.items()) if file is first or file.schema != first.schema}
    if len(distinct) == 1:
        return first.schema, ""
    spelt = _spellings([file.schema.names for file in distinct.values()], known)
    types: dict[str, pa.DataType] = {}
    origin: dict[str, str] = {}
    absent: dict[str, str] = {}
    apart: dict[str, dict[str, str]] = {}  # of each column, its types, and a file that has it
    other: dict[str, str] = {}
    for file in distinct.values():
        names = [spelt[name] for name in file.schema.names]
        for name in types.keys() - set(names):
            absent.setdefault(name, file.path)
        for name, field in zip(names, file.schema, strict=True):
            if name != field.name:
                other.setdefault(field.name, f"{field.name!r} ({_name(file.path)}) is read as {name!r}")
            if name not in types:
                types[name], origin[name] = field.type, file.path
                if file is not first:
                    absent.setdefault(name, first.path)
            elif field.type != types[name]:
                before = types[name]
                types[name] = _wider(name, before, field.type, file.path, origin[name])
                if pt.is_null(before):
                    origin[name] = file.path
                elif not pt.is_null(field.type):
                    here = apart.setdefault(name, {str(before): origin[name]})
                    here.setdefault(str(field.type), file.path)
    parts = [f"{name!r} is missing in {_name(path)}, and null there" for name, path in absent.items()]
    parts += [f"{name!r} ({_where(found)}) is read as {types[name]}" for name, found in apart.items()]
    parts += other.values()
    more = f"; and {len(parts) - SHOWN:,} more" if len(parts) > SHOWN else ""
    differences = f"the files' columns differ: {'; '.join(parts[:SHOWN])}{more}" if parts else ""
    return pa.schema([(name.encode(), kind) for name, kind in types.items()]), differences


def _spellings(tables: Sequence[Sequence[str]], known: Collection[str]) -> dict[str, str]:
    """The name in the whole table of each column of a file."""
    alike: dict[str, dict[str, None]] = {}
    twofold: set[str] = set()
    for names in tables:
        here = Counter(map(plain, names))
        twofold.update(name for name, count in here.items() if count > 1)
        for name in names:
            alike.setdefault(plain(name), {})[name] = None
    spelt: dict[str, str] = {}
    for together, found in alike.items():
        chosen = next((name for name in found if name in known), next(iter(found)))
        spelt |= {name: name if together in twofold else chosen for name in found}
    return spelt


def own_names(file: InputFile, schema: pa.Schema, names: Iterable[str]) -> dict[str, str]:
    """The file's names of the columns `names` of the whole table, without those that it lacks."""
    own = {name: name for name in file.schema.names}
    alike = {plain(name): name for name in own.keys() - set(schema.names)}
    found = {name: own.get(name) or alike.get(plain(name)) for name in names}
    return {name: value for name, value in found.items() if value is not None}


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
