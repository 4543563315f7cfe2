"""Parses captions: the inverse of `captions`, for any wording with the known words."""

from __future__ import annotations

import re
from dataclasses import dataclass
from itertools import permutations

from sdbatch.tiny.captions import RELATIONS, SHADE_WORDS
from sdbatch.tiny.reader import Reading
from sdbatch.tiny.scenes import BACKGROUNDS, COLOURS, SHAPES

__all__ = ["Wanted", "obeyed", "wanted"]

SHADES = {word: shade for shade in BACKGROUNDS for word in SHADE_WORDS.get(shade, (shade,))}
PLACES = {words: place for place, several in RELATIONS.items() for words in several}
# The longest first: "to the left of" contains "left of".
BETWEEN = re.compile(rf"\b({'|'.join(sorted((re.escape(words) for words in PLACES), key=len, reverse=True))}|and)\b")
MAX_THINGS = 4


@dataclass(frozen=True)
class Wanted:
    """The content named in a caption.

    Attributes:
        things: (shape, colour) of each, "" if not named; in reading order if `axis` is given.
        axis: "across" or "down"; "" if no placement is named.
        background: "" if not named.
    """

    things: tuple[tuple[str, str], ...]
    axis: str
    background: str


def wanted(caption: str) -> Wanted:
    """Parse a caption; things are in the order in which a reader sees them."""
    text = caption.lower()
    background = next((SHADES[word] for word in re.findall(r"[a-z]+", text) if word in SHADES), "")
    parts = BETWEEN.split(text)
    things = [thing for thing in map(_thing, parts[::2]) if any(thing)][:MAX_THINGS]
    axis, forward = next((PLACES[words] for words in parts[1::2] if words in PLACES), ("", True))
    if len(things) != 2:
        axis = ""
    elif axis and not forward:
        things.reverse()
    return Wanted(tuple(things), axis, background)


def obeyed(caption: str, reading: Reading) -> float | None:
    """The share, 0 to 1, of a caption's content that a picture shows; None if the caption names nothing.

    Counts each thing's shape and colour, the placement of two, the background, and additional things.
    """
    want = wanted(caption)
    named = sum(bool(word) for thing in want.things for word in thing) + bool(want.axis) + bool(want.background)
    if not named:
        return None
    right, in_place = _things_right(want, reading)
    right += in_place + (bool(want.background) and reading.background == want.background)
    too_many = max(0, len(reading.kinds) - len(want.things)) if want.things else 0
    return right / (named + too_many)


def _things_right(want: Wanted, reading: Reading) -> tuple[int, bool]:
    """The best number of matching shapes and colours; and whether all match, in the named placement."""
    every = sum(bool(word) for thing in want.things for word in thing)
    seen = [*reading.kinds, *[("", "")] * (len(want.things) - len(reading.kinds))]
    orders = [seen[: len(want.things)]] if want.axis else permutations(seen, len(want.things))
    right = max(
        sum(
            bool(word) and word == shown
            for pair in zip(want.things, order, strict=True)
            for word, shown in zip(*pair, strict=True)
        )
        for order in orders
    )
    return right, bool(want.axis) and right == every and reading.axis == want.axis


def _thing(words: str) -> tuple[str, str]:
    found = re.findall(r"[a-z]+", words)
    return next((w for w in found if w in SHAPES), ""), next((w for w in found if w in COLOURS), "")
