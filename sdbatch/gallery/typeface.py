"""Chooses the typeface for a text on the contact sheet, and replacements for missing characters."""

from __future__ import annotations

import unicodedata
from functools import cache

from PIL import ImageFont

__all__ = ["BUILT_IN", "Font", "best_for", "font", "with_stand_ins"]

Font = ImageFont.FreeTypeFont | ImageFont.ImageFont

BUILT_IN = ""
# Pillow's own typeface comes first, so most sheets look the same on every machine. But it has no accents and no
# Chinese: other texts use the installed typeface among these that has most of their characters.
FALLBACKS = (
    "NotoSans-Regular.ttf",
    "DejaVuSans.ttf",
    "NotoSansCJK-Regular.ttc",
    "Arial Unicode.ttf",  # macOS
    "msyh.ttc",  # Windows
)
DASHES = {"–": "-", "—": "-"}
PROBE_SIZE = 20


def best_for(text: str) -> str:
    """The name of the typeface that lacks the fewest of `text`'s characters."""
    characters = {char for char in text if not char.isspace()}
    return min(_installed(), key=lambda face: sum(not _has(face, char) for char in characters))


def with_stand_ins(text: str, face: str) -> str:
    """`text` with each character that `face` lacks replaced by its plain letter, if it has one (é → e)."""
    return "".join(char if char.isspace() or _has(face, char) else _stand_in(char, face) for char in text)


@cache
def font(face: str, size: int) -> Font:
    """The typeface of that name at `size` pixels."""
    return ImageFont.truetype(face, size) if face else ImageFont.load_default(size)


def _stand_in(char: str, face: str) -> str:
    plain = DASHES.get(char) or unicodedata.normalize("NFKD", char)
    letters = "".join(letter for letter in plain if not unicodedata.combining(letter))
    return letters if letters and all(_has(face, letter) for letter in letters) else char


@cache
def _installed() -> tuple[str, ...]:
    return (BUILT_IN, *(face for face in FALLBACKS if _opens(face)))


def _opens(face: str) -> bool:
    try:
        font(face, PROBE_SIZE)
    except OSError:  # not installed: Pillow looks through the system's own font folders
        return False
    return True


@cache
def _has(face: str, char: str) -> bool:
    """Whether `face` has a glyph for `char`: Pillow doesn't say, so compare with that of a missing one."""
    return _drawn(face, char) != _drawn(face, "\uffff")


@cache
def _drawn(face: str, char: str) -> bytes:
    return bytes(font(face, PROBE_SIZE).getmask(char))
