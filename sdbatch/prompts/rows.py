"""From a row of the prompt table to requests for the engine, or to the reason why there can be none."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from decimal import Decimal, InvalidOperation
from hashlib import blake2b
from typing import Any

import pyarrow as pa
import pyarrow.types as pt

from sdbatch.diffusion.request import Request
from sdbatch.diffusion.samplers import resolve
from sdbatch.errors import SamplerError
from sdbatch.prompts.columns import Columns
from sdbatch.settings import RunSettings

__all__ = ["PromptRow", "derived_seed", "parse"]

MOST_CHARACTERS = 4_000_000  # with these a PNG's text still opens in Pillow, which allows 64 MB
LARGEST = 2**63 - 1


@dataclass(frozen=True, slots=True)
class PromptRow:
    """A row of the table, as the engine wants it.

    Attributes:
        requests: one an image, seeds counting up from the row's; of a row with an error they hold what could
            be read, and None where nothing could.
        error: why the row cannot be run, naming the column; None where nothing is wrong without a model.
        unread: the settings whose value could not be read at all.
    """

    requests: tuple[Request, ...]
    error: str | None
    unread: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class _Bad:
    """A value that cannot be used. `known` is what of it the metadata can still hold."""

    reason: str
    known: Any = None


def parse(
    table: pa.Table, columns: Columns, settings: RunSettings, file_number: int, first_row: int
) -> list[PromptRow]:
    """The rows of a table that begins at row `first_row` of the input file `file_number`.

    Checks what needs no model: types, ranges, empty prompts. Whether the model knows the sampler and can make
    the size is for `sdbatch.diffusion.validate`.
    """
    cells = {
        setting: _cells(setting, _named(column), table.column(column), columns.text)
        for setting, column in columns.settings.items()
    }
    return [
        _row({setting: values[i] for setting, values in cells.items()}, settings, file_number, first_row + i)
        for i in range(table.num_rows)
    ]


def derived_seed(run_seed: int, file_number: int, row: int) -> int:
    """The seed of a row that brings none: 32 bits, from the run's seed and the row's place alone."""
    digest = blake2b(f"{run_seed}/{file_number}/{row}".encode(), digest_size=4).digest()
    return int.from_bytes(digest, "big")


def _row(cells: dict[str, Any], settings: RunSettings, file_number: int, row: int) -> PromptRow:
    bad = [value for value in cells.values() if isinstance(value, _Bad)]
    given = {name: value.known if isinstance(value, _Bad) else value for name, value in cells.items()}
    unread = frozenset(name for name, value in cells.items() if isinstance(value, _Bad) and value.known is None)

    def value(name: str, default: Any) -> Any:
        return default if given.get(name) is None and name not in unread else given[name]

    seed = value("seed", derived_seed(settings.seed, file_number, row))
    count = settings.images_per_prompt
    if seed is not None and seed + count - 1 > LARGEST:
        bad.append(_Bad(f"seed is {seed}; must be less than 2**63, counting up over {count} images"))
        seed = None
    request = Request(
        prompt=given["prompt"],
        negative_prompt=(given["negative_prompt"] or "") if "negative_prompt" in given else settings.negative_prompt,
        sampler=_canonical(value("sampler", settings.sampler)),
        steps=value("steps", settings.steps),
        guidance_scale=value("guidance_scale", settings.guidance_scale),
        guidance_rescale=settings.guidance_rescale,
        guidance_start=settings.guidance_start,
        guidance_stop=settings.guidance_stop,
        height=value("height", settings.height),
        width=value("width", settings.width),
    )
    seeds = [None] * count if seed is None else range(seed, seed + count)
    requests = tuple(replace(request, seed=seed) for seed in seeds)
    return PromptRow(requests, bad[0].reason if bad else None, unread)


def _canonical(sampler: str | None) -> str | None:
    """The sampler's own name where an alias or a code stands for it; unknown ones are for the model to refuse."""
    try:
        return resolve(sampler) if sampler is not None else None
    except SamplerError:
        return sampler


def _cells(setting: str, column: str, values: pa.ChunkedArray, text: bool) -> list[Any]:
    """The column's values as the engine takes them: a value, None for null, or `_Bad`."""
    kind = values.type.value_type if pt.is_dictionary(values.type) else values.type
    if setting in ("prompt", "negative_prompt", "sampler") and not pt.is_integer(kind):
        cells = [_text(column, value) for value in _as_bytes(values, kind)]
        return [_prompt(column, cell) for cell in cells] if setting == "prompt" else cells
    if text:
        plain = [_read_number(column, _text(column, value)) for value in _as_bytes(values, kind)]
    else:
        plain = values.cast(kind).to_pylist()
    if setting == "sampler":
        return [None if value is None else str(value) for value in plain]
    if pt.is_floating(kind):
        plain = [None if value is None else _shortest(value, kind) for value in plain]
    if setting == "guidance_scale":
        return [_number(column, value) for value in plain]
    least = 0 if setting == "seed" else 1
    return [_whole(column, value, least) for value in plain]


def _as_bytes(values: pa.ChunkedArray, kind: pa.DataType) -> list[bytes | None]:
    # Arrow does not check that strings in a file are UTF-8; as bytes, one that is not fails alone.
    if pt.is_null(kind):
        return [None] * len(values)
    return values.cast(kind).cast(pa.large_string()).cast(pa.large_binary()).to_pylist()


def _text(column: str, value: bytes | None) -> Any:
    if value is None:
        return None
    try:
        text = value.decode()
    except UnicodeDecodeError:
        return _Bad(f"{column} is not valid UTF-8")
    if len(text) > MOST_CHARACTERS:
        return _Bad(f"{column} has {len(text):,} characters; at most {MOST_CHARACTERS:,}", text[:MOST_CHARACTERS])
    return text


def _prompt(column: str, cell: Any) -> Any:
    if isinstance(cell, _Bad) or (cell is not None and cell.strip()):
        return cell
    return _Bad(f"{column} is empty", cell)


def _read_number(column: str, value: Any) -> Any:
    if isinstance(value, _Bad):
        return value
    if value is None or not value.strip():
        return None
    try:
        number = Decimal(value.strip())
    except InvalidOperation:
        number = Decimal("nan")
    return _Bad(f"{column} is {_shown(value)}; must be a number") if number.is_nan() else number


def _shortest(value: float, kind: pa.DataType) -> float:
    # A table's float32 7.1 was written as 7.1, and is meant so; 7.099999904632568 would be its exact value.
    return float(str(kind.to_pandas_dtype()(value))) if kind != pa.float64() else value


def _number(column: str, value: Any) -> Any:
    if value is None or isinstance(value, _Bad):
        return value
    if not math.isfinite(number := float(value)):
        return _Bad(f"{column} is {_shown(value)}; must be a finite number")
    return number


def _whole(column: str, value: Any, least: int) -> Any:
    if value is None or isinstance(value, _Bad):
        return value
    if value > LARGEST and value != math.inf:  # before it becomes an int, which 1e999999 would make endless
        return _Bad(f"{column} is {_shown(value)}; must be less than 2**63")
    if value < -LARGEST and value != -math.inf:
        return _Bad(f"{column} is {_shown(value)}; must be at least {least}")
    if not math.isfinite(value) or value != int(value):
        return _Bad(f"{column} is {_shown(value)}; must be a whole number")
    if value < least:
        return _Bad(f"{column} is {_shown(value)}; must be at least {least}", int(value))
    return int(value)


def _named(column: str) -> str:
    return column if column.isprintable() else repr(column)


def _shown(value: Any) -> str:
    shown = repr(str(value)[:41])[1:-1]  # with the escapes that keep a terminal from obeying it
    return shown if len(shown) <= 40 else f"{shown[:40]}…"
