"""Typesets the contact sheet's text: breaks any Unicode string into lines that fit a width."""

from __future__ import annotations

import unicodedata
from dataclasses import dataclass

from PIL import ImageDraw

from sdbatch.gallery import typeface

__all__ = ["Line", "Style", "draw_lines", "lines_height", "set_text"]

ELLIPSIS = "…"
BASELINE = 0.72  # the baseline's distance from the top of a line, as a share of the leading


@dataclass(frozen=True, slots=True)
class Style:
    """The style of a line: type size and leading (line height) in pixels, and colour."""

    size: int
    leading: int
    colour: str


@dataclass(frozen=True, slots=True)
class Line:
    """One line of text that fits its width, and its typeface."""

    text: str
    style: Style
    face: str


def set_text(text: str, style: Style, width: int, max_lines: int) -> list[Line]:
    """Break `text` into at most `max_lines` lines of at most `width` pixels; an ellipsis replaces the rest."""
    # `width` pixels hold at most `width` characters, so a prompt of a megabyte need not be measured.
    text = _printable(text[: width * max_lines])
    face = typeface.best_for(text)
    words = typeface.with_stand_ins(text, face).split()
    font = typeface.font(face, style.size)
    lines: list[str] = []
    while words and len(lines) < max_lines:
        lines.append(_take_line(words, font, width))
    if words:
        lines[-1] = _shorten(lines[-1], font, width)
    return [Line(line, style, face) for line in lines]


def lines_height(lines: list[Line]) -> int:
    """The height of stacked `lines`, in pixels."""
    return sum(line.style.leading for line in lines)


def draw_lines(draw: ImageDraw.ImageDraw, corner: tuple[int, int], lines: list[Line]) -> None:
    """Draw stacked `lines`; `corner` is the top left of the first one."""
    x, y = corner
    for line in lines:
        # Aligned by baselines, or lines in different typefaces would be at different heights.
        baseline = y + round(BASELINE * line.style.leading)
        font = typeface.font(line.face, line.style.size)
        draw.text((x, baseline), line.text, font=font, fill=line.style.colour, anchor="ls")
        y += line.style.leading


def _take_line(words: list[str], font: typeface.Font, width: int) -> str:
    """Take as many of `words` as fit one line; a word wider than a line is split at the line's end."""
    line = words.pop(0)
    while words and _fits(f"{line} {words[0]}", font, width):
        line = f"{line} {words.pop(0)}"
    if not _fits(line, font, width):
        kept = _fitting_prefix(line, font, width)
        words.insert(0, line[kept:])
        line = line[:kept]
    return line


def _fitting_prefix(word: str, font: typeface.Font, width: int) -> int:
    """The number of characters of `word` that fit, at least one. (Chinese and Thai text has no spaces.)"""
    fits, too_many = 1, len(word)
    while too_many - fits > 1:
        middle = (fits + too_many) // 2
        if _fits(word[:middle], font, width):
            fits = middle
        else:
            too_many = middle
    return fits


def _shorten(line: str, font: typeface.Font, width: int) -> str:
    while line and not _fits(line + ELLIPSIS, font, width):
        line = line[:-1].rstrip()
    return line.rstrip(",;.") + ELLIPSIS


def _fits(text: str, font: typeface.Font, width: int) -> bool:
    return font.getlength(text) <= width


def _printable(text: str) -> str:
    """`text` with control characters and line breaks, which fonts cannot draw, replaced by spaces."""
    return "".join(" " if unicodedata.category(char) in ("Cc", "Cs", "Zl", "Zp") else char for char in text)
