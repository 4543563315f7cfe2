"""AUTOMATIC1111's prompt syntax: `(word)`, `(word:1.3)`, `[word]`, `BREAK`. Imports no torch.

Reproduces the behaviour of stable-diffusion-webui 1.10, `modules/prompt_parser.py`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import NamedTuple

from sdbatch.errors import PromptError

__all__ = ["Piece", "parse", "unsupported"]

BRACKET = 1.1
MARK = re.compile(
    r"""\\ (?P<escaped> [()\[\]\\]? )
      | (?P<open> [(\[] )
      | : \s* (?P<weight> [+-]? [.\d]+ ) \s* \)
      | (?P<close> [)\]] )
      | : | [^\\()\[\]:]+""",
    re.VERBOSE,
)
BREAK = re.compile(r"\s*\bBREAK\b\s*")
AND = re.compile(r"\bAND\b")
NETWORK = re.compile(r"<(lora|lyco|hypernet):[^>]*>")
EDIT = re.compile(r"\\.|[\[\]|]|:\s*[+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?\s*(?=\])", re.DOTALL)


class Piece(NamedTuple):
    """A part of a prompt, and the weight of its tokens."""

    text: str
    weight: float

    @property
    def is_break(self) -> bool:
        """Whether the text after it starts a new chunk."""
        return self == ("BREAK", -1.0)


def parse(text: str) -> list[Piece]:
    """Parse a prompt into pieces, at least one. Neighbours have different weights.

    Parentheses multiply the weight by 1.1 or by the given number, square brackets by 1/1.1; unclosed ones extend to
    the end, and a backslash escapes one. Two peculiarities of the original affect pictures and are kept: neighbours
    with the same weight become one text, without a space between them; and BREAK inside brackets is a word.

    Raises:
        PromptError: a weight is not a number.
    """
    pieces: list[tuple[str, float]] = []
    opened: dict[str, list[int]] = {"(": [], "[": []}

    def weigh(first: int, factor: float) -> None:
        pieces[first:] = [(text, weight * factor) for text, weight in pieces[first:]]

    for mark in MARK.finditer(text):
        found = mark[0]
        if mark["escaped"] is not None:
            pieces.append((mark["escaped"], 1.0))
        elif mark["open"]:
            opened[found].append(len(pieces))
        elif mark["weight"] and opened["("]:
            weigh(opened["("].pop(), _number(mark["weight"]))
        elif found == ")" and opened["("]:
            weigh(opened["("].pop(), BRACKET)
        elif found == "]" and opened["["]:
            weigh(opened["["].pop(), 1 / BRACKET)
        else:
            pieces += _split(found)
    for first in opened["("]:
        weigh(first, BRACKET)
    for first in opened["["]:
        weigh(first, 1 / BRACKET)
    return list(_merged(pieces)) or [Piece("", 1.0)]


def unsupported(prompt: str, *, negative: bool = False) -> str | None:
    """A message about unsupported parts of AUTOMATIC1111's syntax in the prompt; None if there are none.

    Args:
        negative: whether it is a negative prompt, in which AND and networks are plain words, as in AUTOMATIC1111.
    """
    if _is_edited(prompt):
        return "[from:to:when] and [one|other] change the prompt between steps, which is not supported"
    if negative:
        return None
    if network := NETWORK.search(prompt):
        return f"{network[0]} names a network; --lora-dir finds LoRAs by such names, remove others"
    if AND.search(prompt):
        return "AND combines prompts with separate guidance, which is not supported"
    return None


def _is_edited(prompt: str) -> bool:
    edited: list[bool] = []
    for mark in EDIT.finditer(prompt):
        if mark[0] == "[":
            edited.append(False)
        elif mark[0] == "]" and edited:
            if edited.pop():
                return True
        elif edited and mark[0][0] in "|:":
            edited[-1] = True
    return False


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError as error:
        raise PromptError(f"the weight {text!r} is not a number") from error


def _split(text: str) -> Iterator[tuple[str, float]]:
    first, *others = BREAK.split(text)
    yield first, 1.0
    for other in others:
        yield "BREAK", -1.0
        yield other, 1.0


def _merged(pieces: list[tuple[str, float]]) -> Iterator[Piece]:
    texts: list[str] = []
    last = 1.0
    for text, weight in pieces:
        if texts and weight != last:
            yield Piece("".join(texts), last)
            texts = []
        texts.append(text)
        last = weight
    if texts:
        yield Piece("".join(texts), last)
