"""Finds integers beyond 64 bits in JSON, which Arrow would read as floats and round."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

import pyarrow as pa

from sdbatch.bounds import MAX_INT64

__all__ = ["wide_columns"]

# A line without a match, strings included, has no number that is too wide.
CANDIDATE = re.compile(rb"(?<![\w.+])-?\d{19,}(?![\d.eE])")
MAX_DIGITS = 38  # of Arrow's decimals


def wide_columns(lines: bytes, first_line: int) -> dict[str, int]:
    """The columns with integers beyond 64 bits, and the line of the first one in each.

    Args:
        lines: lines of JSON.
        first_line: the number of the first line.

    Raises:
        pa.ArrowInvalid: such a number is nested in a value, or has more than 38 digits; names line and column.
    """
    found: dict[str, int] = {}
    if not CANDIDATE.search(lines):
        return found
    for number, line in enumerate(lines.split(b"\n"), first_line):
        if CANDIDATE.search(line):
            for name, value in _values(line):
                for wide, is_nested in _wide(value):
                    if is_nested or abs(wide) >= 10**MAX_DIGITS:
                        where = "inside a value" if is_nested else f"of more than {MAX_DIGITS} digits"
                        raise pa.ArrowInvalid(
                            f"line {number:,}: column {name!r} has a whole number beyond 64 bits {where}; "
                            "store it as text"
                        )
                    found.setdefault(name, number)
    return found


def _values(line: bytes) -> list[tuple[str, Any]]:
    try:
        content = json.loads(line, parse_int=_whole)
    except (ValueError, RecursionError):  # Arrow rejects it later
        return []
    return list(content.items()) if isinstance(content, dict) else []


def _whole(digits: str) -> int:
    # Python's conversion takes quadratic time, and rejects thousands of digits.
    return int(digits) if len(digits) <= MAX_DIGITS + 1 else 10**MAX_DIGITS


def _wide(value: Any, is_nested: bool = False) -> Iterator[tuple[int, bool]]:
    if isinstance(value, int) and not -MAX_INT64 - 1 <= value <= MAX_INT64:
        yield value, is_nested
    elif isinstance(value, dict | list):
        for part in value.values() if isinstance(value, dict) else value:
            yield from _wide(part, True)
