"""Reads the cells of a column by the kind of its setting."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from decimal import Decimal, InvalidOperation
from itertools import islice
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.types as pt

from sdbatch.bounds import MAX_INT64, Number, Whole
from sdbatch.errors import UsageError
from sdbatch.fields import Field
from sdbatch.kinds import Choice, Flag, Picture, Pictures, Seed, Several, Text
from sdbatch.prompts.column_types import is_list, one_of_list
from sdbatch.prompts.types import is_text
from sdbatch.weighted_files import WeightedFiles

__all__ = ["Bad", "read_cells"]

MAX_CHARACTERS = 4_000_000  # Pillow can still open a PNG with this much text; its limit is 64 MB
# From this whole number on, a float may stand for a neighbouring integer.
INEXACT = {pa.float16(): 2**11, pa.float32(): 2**24, pa.float64(): 2**53}


@dataclass(frozen=True, slots=True)
class Bad:
    """A value that cannot be used. `known` is the part of it that the metadata can still store."""

    reason: str
    known: Any = None


def read_cells(field: Field, column: str, values: pa.ChunkedArray, *, text: bool, wide_seeds: bool) -> list[Any]:
    """The column's values as they go into a request: a value, None for null, or `Bad`.

    Args:
        column: its name in messages.
        text: whether numbers must be parsed from text.
        wide_seeds: whether seeds may be 2**63 or more, and -1 means no seed.
    """
    kind = values.type.value_type if pt.is_dictionary(values.type) else values.type
    setting = field.cell or field.kind
    if isinstance(setting, Several | Pictures):
        return _lists(field, column, values, kind, text)
    if isinstance(setting, Picture):
        return _pictures(values, kind)
    if isinstance(setting, WeightedFiles):
        return _weighted_files(setting, column, values, kind)
    if is_list(kind):  # pairs
        cells = [value and "x".join(map(str, value)) for value in values.to_pylist()]
    elif isinstance(setting, Text | Choice) and not pt.is_integer(kind):
        cells = [_text(column, value) for value in _as_bytes(values, kind)]
    elif isinstance(setting, Flag):
        cells = _flags(column, values, kind)
    else:
        cells = _numbers(setting, column, values, kind, text, wide_seeds)
    if isinstance(setting, Choice):
        cells = [_word(column, cell, setting) for cell in cells]
    return [_checked(field, column, cell) for cell in cells]


def _pictures(values: pa.ChunkedArray, kind: pa.DataType) -> list[Any]:
    """Pictures as Python values: a path as text, bytes, or a dict of both. Opens nothing."""
    if is_text(kind):
        return [value if value is None else value.decode(errors="replace") for value in _as_bytes(values, kind)]
    return values.cast(kind).to_pylist()


def _lists(field: Field, column: str, values: pa.ChunkedArray, kind: pa.DataType, text: bool) -> list[Any]:
    """A tuple for each cell: a list's values, a text's parts between semicolons, otherwise the single value."""
    if is_list(kind):
        lengths = [None if count is None else int(count) for count in pc.list_value_length(values).to_pylist()]
        flat = pa.chunked_array([chunk.flatten() for chunk in values.chunks], kind.value_type)
    elif is_text(kind):
        found = [
            value if value is None or not value.strip() else value.split(b";") for value in _as_bytes(values, kind)
        ]
        lengths = [len(parts) if isinstance(parts, list) else None for parts in found]
        parts = [part.strip() for parts in found if isinstance(parts, list) for part in parts]
        # Cast without a check: text that is not UTF-8 must fail only its own cell.
        flat, text = pa.chunked_array([pa.array(parts, pa.binary()).view(pa.string())]), True
    else:
        lengths, flat = [1 if valid else None for valid in values.is_valid().to_pylist()], values.drop_null()
    one = replace(field, kind=one_of_list(field.kind), cell=None)
    cells = iter(read_cells(one, column, flat, text=text, wide_seeds=False))
    return [None if not length else _whole_list(column, list(islice(cells, length))) for length in lengths]


def _whole_list(column: str, items: list[Any]) -> Any:
    """The values of one cell; `Bad` if any of them is bad or missing."""
    if any(item is None or item == "" for item in items):
        return Bad(f"{column} holds a list with an empty value")
    return next((item for item in items if isinstance(item, Bad)), tuple(items))


def _weighted_files(setting: WeightedFiles, column: str, values: pa.ChunkedArray, kind: pa.DataType) -> list[Any]:
    """Each cell as one text; None for a cell that names no file."""
    holds_text = pt.is_null(kind) or is_text(kind) or pt.is_string_view(kind)
    cells = [_text(column, value) for value in _as_bytes(values, kind)] if holds_text else values.cast(kind).to_pylist()
    cells = [cell or None for cell in cells]  # empty text, an empty list
    return [cell if isinstance(cell, Bad | None) else _read_weighted(setting, column, cell) for cell in cells]


def _read_weighted(setting: WeightedFiles, column: str, cell: Any) -> Any:
    try:
        return setting.check(column, cell) or None
    except UsageError as error:
        return Bad(str(error))


def _flags(column: str, values: pa.ChunkedArray, kind: pa.DataType) -> list[Any]:
    if pt.is_boolean(kind) or pt.is_null(kind):
        return values.cast(kind).to_pylist()
    return [_read_flag(column, _text(column, value)) for value in _as_bytes(values, kind)]


def _read_flag(column: str, value: Any) -> Any:
    if isinstance(value, Bad) or value is None or not value.strip():
        return value if isinstance(value, Bad) else None
    try:
        return Flag().parse(column, value)
    except UsageError:
        return Bad(f"{column} is {_shown(value)}; must be {Flag()}")


def _numbers(
    setting: Any, column: str, values: pa.ChunkedArray, kind: pa.DataType, text: bool, wide_seeds: bool
) -> list[Any]:
    if text or is_text(kind):
        plain = [_read_number(column, _text(column, value)) for value in _as_bytes(values, kind)]
    else:
        plain = values.cast(kind).to_pylist()
    if isinstance(setting, Text):  # integer codes of names
        return [None if value is None else str(value) for value in plain]
    if isinstance(setting, Seed) and wide_seeds:
        return [_seed(column, value, INEXACT.get(kind)) for value in plain]
    if pt.is_floating(kind):
        plain = [None if value is None else _shortest(value, kind) for value in plain]
    if isinstance(setting, Number):
        return [_number(column, value, setting) for value in plain]
    return [_whole(column, value, setting) for value in plain]


def _checked(field: Field, column: str, cell: Any) -> Any:
    if field.check is None or cell is None or isinstance(cell, Bad):
        return cell
    if isinstance(cell, str) and not cell.strip():  # an empty cell counts as null, as for numbers
        return None
    reason = field.check(cell)
    return cell if reason is None else Bad(f"{column} is {_shown(cell)}: {reason}", cell)


def _as_bytes(values: pa.ChunkedArray, kind: pa.DataType) -> list[bytes | None]:
    # Arrow does not check that a file's strings are UTF-8. Read as bytes, an invalid one fails only its row.
    if pt.is_null(kind):
        return [None] * len(values)
    return values.cast(kind).cast(pa.large_string()).cast(pa.large_binary()).to_pylist()


def _text(column: str, value: bytes | None) -> Any:
    if value is None:
        return None
    try:
        text = value.decode()
    except UnicodeDecodeError:
        return Bad(f"{column} is not valid UTF-8")
    if len(text) > MAX_CHARACTERS:
        return Bad(f"{column} has {len(text):,} characters; at most {MAX_CHARACTERS:,}", text[:MAX_CHARACTERS])
    return text


def _word(column: str, cell: Any, choice: Choice) -> Any:
    if cell is None or isinstance(cell, Bad) or cell in choice.words:
        return cell
    if not cell.strip():
        return None
    return Bad(f"{column} is {_shown(cell)}; must be {choice}", cell)


def _read_number(column: str, value: Any) -> Any:
    if isinstance(value, Bad):
        return value
    if value is None or not value.strip():
        return None
    try:
        number = Decimal(value.strip())
    except InvalidOperation:
        number = Decimal("nan")
    return Bad(f"{column} is {_shown(value)}; must be a number") if number.is_nan() else number


def _shortest(value: float, kind: pa.DataType) -> float:
    # A float32 7.1 was meant as 7.1; its exact value is 7.099999904632568.
    return float(str(kind.to_pandas_dtype()(value))) if kind != pa.float64() else value


def _number(column: str, value: Any, bounds: Number) -> Any:
    if value is None or isinstance(value, Bad):
        return value
    if not math.isfinite(number := float(value)):
        return Bad(f"{column} is {_shown(value)}; must be a finite number")
    if not bounds.minimum <= number <= bounds.maximum:
        return Bad(f"{column} is {_shown(value)}; must be {bounds}", number)
    return number


def _whole(column: str, value: Any, bounds: Whole) -> Any:
    if value is None or isinstance(value, Bad):
        return value
    if value > MAX_INT64 and value != math.inf:  # before conversion to int, which would take forever for 1e999999
        return Bad(f"{column} is {_shown(value)}; must be less than 2**63")
    if value < -MAX_INT64 and value != -math.inf:
        return Bad(f"{column} is {_shown(value)}; must be at least {bounds.minimum}")
    if not math.isfinite(value) or value != int(value):
        return Bad(f"{column} is {_shown(value)}; must be a whole number")
    if value < bounds.minimum:
        return Bad(f"{column} is {_shown(value)}; must be at least {bounds.minimum}", int(value))
    if value > bounds.maximum:
        return Bad(f"{column} is {_shown(value)}; must be at most {bounds.maximum:,}", int(value))
    return int(value)


def _seed(column: str, value: Any, inexact: int | None) -> Any:
    """A seed, None for no seed (null and -1), or `Bad`. Floats from `inexact` on may be rounded."""
    if value is None or isinstance(value, Bad) or value == -1:
        return value if isinstance(value, Bad) else None
    if not math.isfinite(value) or (abs(value) < Seed().maximum + 1 and value != int(value)):
        return Bad(f"{column} is {_shown(value)}; must be a whole number")
    if value < 0:
        return Bad(f"{column} is {_shown(value)}; must be at least 0, or -1 for none")
    if value > Seed().maximum:
        return Bad(f"{column} is {_shown(value)}; must be less than 2**64")
    if inexact is not None and value >= inexact:
        limit = f"2**{inexact.bit_length() - 1}"
        return Bad(
            f"{column} is {_shown(value)} as a float, which is not exact from {limit} on; store it as an integer"
        )
    return int(value)


def _shown(value: Any) -> str:
    shown = repr(str(value)[:41])[1:-1]  # escaped, so that a terminal does not interpret control characters
    return shown if len(shown) <= 40 else f"{shown[:40]}…"
