"""Refuses tables with too many columns before they take memory."""

from __future__ import annotations

import re

import pyarrow as pa

__all__ = ["MAX_COLUMNS", "refuse_many_keys", "refuse_wide", "too_wide"]

MAX_COLUMNS = 16_384  # Excel's own bound
TEXT = re.compile(rb'"((?:[^"\\]|\\.)*)"\s*(:?)')


def refuse_wide(columns: int) -> None:
    """Raises `pa.ArrowInvalid` if these are more columns than a table may have."""
    if columns > MAX_COLUMNS:
        raise pa.ArrowInvalid(too_wide(columns))


def too_wide(columns: int) -> str:
    """The reason why a table with this many columns is refused."""
    return f"has {columns:,} columns, more than {MAX_COLUMNS:,}; leave out what is not needed"


def refuse_many_keys(lines: bytes) -> None:
    """Refuse JSON with more keys than a table may have columns: Arrow makes one full-length column per key.

    Raises:
        pa.ArrowInvalid: there are more keys.
    """
    if lines.count(b":") > MAX_COLUMNS:
        refuse_wide(len({name for name, colon in TEXT.findall(lines) if colon}))
