"""Reads a `.json` file, one array of objects or prompts, by converting it to JSON Lines."""

from __future__ import annotations

import io
import json
from typing import BinaryIO

import pyarrow as pa

__all__ = ["MAX_JSON_BYTES", "as_lines"]

MAX_JSON_BYTES = 128 << 20  # an array is read as a whole, and its objects take several times as much memory
EXPECTED = 'expected an array of objects, such as [{"prompt": "a cat"}], or of prompts'


def as_lines(file: BinaryIO) -> BinaryIO:
    """The file's items as JSON Lines in UTF-8; a text becomes the object {"prompt": text}.

    Raises:
        pa.ArrowInvalid: the file is too large, is not JSON, or contains something else.
    """
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
