"""Metadata as JavaScript: a page opened from a disk cannot read JSON, but it can load scripts."""

from __future__ import annotations

import json
import math
from typing import Any

__all__ = ["call", "literal"]

MAX_SAFE_INTEGER = 2**53 - 1  # the largest integer up to which JavaScript's numbers are exact


def call(function: str, argument: Any) -> bytes:
    """A script that calls `function` with `argument`."""
    return f"{function}({literal(argument)});\n".encode("ascii")


def literal(value: Any) -> str:
    """`value` as a JavaScript literal in ASCII, safe at any place of a script.

    Integers keep all digits, NaN and infinities are kept; values without a JavaScript literal
    (times, decimals, bytes) become readable text.
    """
    if isinstance(value, str):
        # "<" too: nothing in the script may look like its end. (Line separators are escaped as non-ASCII.)
        return json.dumps(value).replace("<", "\\u003c")
    if value is None or isinstance(value, bool):
        return json.dumps(value)
    if isinstance(value, int):
        return str(value) if abs(value) <= MAX_SAFE_INTEGER else f"{value}n"
    if isinstance(value, float):
        return _number(value)
    if isinstance(value, list | tuple):
        return f"[{','.join(map(literal, value))}]"
    if isinstance(value, dict):
        return f"{{{','.join(f'{literal(str(name))}:{literal(item)}' for name, item in value.items())}}}"
    if isinstance(value, bytes):
        return literal(f"{len(value):,} bytes")
    return literal(str(value))


def _number(value: float) -> str:
    if math.isnan(value):
        return "NaN"
    if math.isinf(value):
        return "Infinity" if value > 0 else "-Infinity"
    return repr(value)
