"""Formats numbers and untrusted text for people."""

from __future__ import annotations

import re
from collections.abc import Sequence

__all__ = ["counted", "duration", "enumerated", "mended", "printable", "size"]

# Control characters, characters that change the direction of writing, line separators and lone surrogates.
UNPRINTABLE = re.compile("[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")


def printable(text: str, keep: str = "") -> str:
    """The text with control characters as Python escapes, except those in `keep`."""
    return UNPRINTABLE.sub(lambda match: match[0] if match[0] in keep else repr(match[0])[1:-1], text)


def counted(number: int, noun: str) -> str:
    """1 row, 2,000 rows."""
    return f"{number:,} {noun}{'s' * (number != 1)}"


def enumerated(names: Sequence[str]) -> str:
    """a, b and c."""
    return " and ".join(filter(None, [", ".join(names[:-1]), names[-1]]))


def mended(texts: int) -> str:
    """A line about carried texts that were not UTF-8."""
    return f"{counted(texts, 'carried text')} not in UTF-8; each invalid byte is replaced by U+FFFD"


def duration(seconds: float) -> str:
    """1:02:03, or 2:03 below an hour."""
    minutes, secs = divmod(max(0, round(seconds)), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours:,}:{minutes:02}:{secs:02}" if hours else f"{minutes}:{secs:02}"


def size(number: float) -> str:
    """Bytes: 12.3 MB."""
    for unit in ("B", "KB", "MB"):
        if number < 1000:
            return f"{number:.3g} {unit}"
        number /= 1000
    return f"{number:.3g} GB"
