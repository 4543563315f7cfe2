"""Parses JSON Lines with Arrow; first refuses what would crash Arrow or be rounded by it."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from itertools import accumulate

import pyarrow as pa
import pyarrow.json as pjson
import pyarrow.types as pt

from sdbatch.prompts.lent_files import copied
from sdbatch.prompts.mixed_columns import as_texts, joined_schema, mixed_columns
from sdbatch.prompts.wide_numbers import wide_columns
from sdbatch.prompts.wide_tables import refuse_many_keys

__all__ = ["MIXED", "common_schema", "joined_pieces", "json_batches"]

MAX_DEPTH = 256  # of nested brackets
WIDE_WHOLE = pa.decimal128(38, 0)
MIXED = "has both integers beyond 64 bits and fractions, and no type holds both exactly; store them as text"


def json_batches(blocks: Iterable[bytes], schema: pa.Schema | None, mixed: set[str]) -> Iterator[pa.RecordBatch]:
    """The rows of blocks of whole lines.

    Args:
        schema: their columns, once they are known; by default they follow from each block.
        mixed: gets the names of columns that are text only because their values are of different kinds.

    Raises:
        pa.ArrowInvalid: it is not JSON Lines, is nested too deeply, or has numbers that no type holds.
    """
    line = 1
    for lines in blocks:
        _refuse_null(lines, line)
        _refuse_depth(lines)
        if schema is None:
            refuse_many_keys(lines)
        try:
            table = _parsed(lines, line, schema)
        except pa.ArrowInvalid:
            names = mixed_columns(lines) if schema is None else _texts(schema)
            plain = as_texts(lines, names) if names else None
            if plain is None:
                raise
            table = _parsed(plain, line, schema)
            mixed.update(names)
        yield from table.combine_chunks().to_batches()
        line += lines.count(b"\n")


def _texts(schema: pa.Schema) -> list[str]:
    return [field.name for field in schema if pt.is_string(field.type)]


def _parsed(lines: bytes, first_line: int, schema: pa.Schema | None) -> pa.Table:
    wide = wide_columns(lines, first_line)
    # By default Arrow reads integers beyond 64 bits as floats.
    known = schema or pa.schema([(name, WIDE_WHOLE) for name in wide])
    reading = pjson.ReadOptions(use_threads=False, block_size=len(lines) + 1)
    try:
        return pjson.read_json(copied(lines), reading, pjson.ParseOptions(explicit_schema=known))
    except pa.ArrowInvalid as exc:
        if wide and "decimal128" in str(exc):
            name, place = next(iter(wide.items()))
            raise pa.ArrowInvalid(f"line {place:,}: column {name!r} {MIXED}") from exc
        raise


def _refuse_null(lines: bytes, first: int) -> None:
    """Reject null instead of the first object, which crashes the process in Arrow's parser."""
    if found := re.search(rb"^[ \t\r]*null", lines, re.MULTILINE):
        number = first + lines.count(b"\n", 0, found.end())
        raise pa.ArrowInvalid(f'line {number:,} is null; each line must be an object, such as {{"prompt": "a cat"}}')


def _refuse_depth(lines: bytes) -> None:
    """Reject deeply nested brackets: Arrow's recursive parser would overflow the stack."""
    if lines.count(b"[") + lines.count(b"{") <= MAX_DEPTH:
        return
    for line in lines.split(b"\n"):
        if line.count(b"[") + line.count(b"{") > MAX_DEPTH and _depth(line) > MAX_DEPTH:
            raise pa.ArrowInvalid(f"a line has brackets nested more than {MAX_DEPTH} deep")


def _depth(line: bytes) -> int:
    """The depth of nested brackets; brackets in strings do not count."""
    brackets = re.sub(rb'"(?:[^"\\]|\\.)*"|[^\[\]{}"]', b"", line)
    return max(accumulate(1 if bracket in b"[{" else -1 for bracket in brackets), default=0)


def common_schema(schemas: list[pa.Schema]) -> pa.Schema:
    """One schema for pieces of JSON with partial schemas; integers and decimals become numbers.

    Raises:
        pa.ArrowInvalid: types are incompatible, or no type holds the numbers exactly.
    """
    common = pa.unify_schemas(schemas, promote_options="permissive")
    for schema in schemas:
        for field in schema:
            if pt.is_decimal(field.type) and not pt.is_decimal(common.field(field.name).type):
                raise pa.ArrowInvalid(f"column {field.name!r} {MIXED}")
    return common


def joined_pieces(known: pa.Schema, other: pa.Schema, mixed: set[str]) -> pa.Schema:
    """The common schema of pieces of one file; columns of mixed kinds become text, and are added to `mixed`."""
    try:
        return common_schema([known, other])
    except pa.ArrowException as exc:
        if MIXED in str(exc):
            raise
    joined = joined_schema(known, other)
    texts = (field.name for field in joined if pt.is_string(field.type))
    mixed.update(name for name in texts if name in known.names and known.field(name).type != other.field(name).type)
    return joined
