"""Reads a `.json` file, an array of objects or prompts, or JSON Lines, as JSON Lines."""

from __future__ import annotations

import io
import json
from typing import BinaryIO

import pyarrow as pa

__all__ = ["as_lines"]

MAX_JSON_BYTES = 128 << 20  # an array is read as a whole, and its objects take several times as much memory
MAX_LINE_BYTES = 64 << 20
EXPECTED = 'expected an array of objects, such as [{"prompt": "a cat"}], or of prompts'


def as_lines(file: BinaryIO) -> BinaryIO:
    """The file's items as JSON Lines in UTF-8; a text becomes the object {"prompt": text}.

    A file whose first line is an object is JSON Lines already, as Spark, DuckDB and `datasets` write them.

    Raises:
        pa.ArrowInvalid: the file is too large, is not JSON, or contains something else.
    """
    if _has_lines(file):
        return file
    text = file.read(MAX_JSON_BYTES + 1)
    if len(text) > MAX_JSON_BYTES:
        raise pa.ArrowInvalid(f"is larger than {MAX_JSON_BYTES >> 20} MB, the maximum for .json; use JSON Lines")
    try:
        items = json.loads(text)
    except (ValueError, RecursionError) as exc:
        raise pa.ArrowInvalid(f"is not JSON: {exc}" if isinstance(exc, ValueError) else "is nested too deeply") from exc
    if not isinstance(items, list):
        raise pa.ArrowInvalid(f"is not an array; {EXPECTED}")
    lines = io.BytesIO()
    for number, item in enumerate(items, 1):
        if not isinstance(item, dict | str):
            raise pa.ArrowInvalid(f"item {number:,} is {type(item).__name__}; {EXPECTED}")
        lines.write(json.dumps({"prompt": item} if isinstance(item, str) else item).encode() + b"\n")
    lines.seek(0)
    return lines


def _has_lines(file: BinaryIO) -> bool:
    """Whether the file's first line is an object, or there is none. Leaves the file where it was."""
    start, line = file.tell(), b"\n"
    while line and not line.strip():
        line = file.readline(MAX_LINE_BYTES)
    file.seek(start)
    if not line.lstrip().startswith(b"{"):
        return not line
    try:
        first = json.loads(line)
    except (ValueError, RecursionError):
        return False
    if first and all(isinstance(value, dict) for value in first.values()):
        raise pa.ArrowInvalid('is laid out by columns; write it by rows, with orient="records" in pandas')
    return True
