"""Kinds of values that a setting may have, besides the numbers of `bounds`.

Every kind has `check`, for a Python value, and `parse`, for text from a command line or a file. Both
raise `UsageError` with the option's name, the value and what is expected.
"""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sdbatch.bounds import Number, Whole
from sdbatch.errors import UsageError

__all__ = ["Choice", "Flag", "Picture", "Pictures", "Seed", "Several", "Text"]

UNFIT = re.compile("[\0\ud800-\udfff]")
YES, NO = ("true", "yes", "on", "1"), ("false", "no", "off", "0")


@dataclass(frozen=True)
class Text:
    """Text without NUL and lone surrogates, which no file can hold.

    Attributes:
        codes: whether a column may hold whole numbers that stand for names.
        pairs: whether a column may hold lists of two whole numbers, which are read as "AxB".
    """

    codes: bool = False
    pairs: bool = False

    def check(self, name: str, value: object) -> str:
        if self.pairs and isinstance(value, list | tuple) and all(type(number) is int for number in value):
            value = "x".join(map(str, value))
        text = os.fspath(value) if isinstance(value, os.PathLike) else value
        if not isinstance(text, str):
            raise UsageError(f"{name} {value!r}: expected {self}")
        if UNFIT.search(text):
            raise UsageError(f"{name} {text!r}: expected text without NUL and lone surrogates")
        return text

    def parse(self, name: str, text: str) -> str:
        return self.check(name, text)

    def __str__(self) -> str:
        return "text"


@dataclass(frozen=True)
class Choice:
    """One of a few words."""

    words: tuple[str, ...]

    def check(self, name: str, value: object) -> str:
        if not isinstance(value, str) or value not in self.words:
            raise UsageError(f"{name} {value!r}: expected {self}")
        return value

    def parse(self, name: str, text: str) -> str:
        return self.check(name, text)

    def __str__(self) -> str:
        return f"one of: {', '.join(self.words)}"


@dataclass(frozen=True)
class Flag:
    """True or False."""

    def check(self, name: str, value: object) -> bool:
        if not isinstance(value, bool):
            raise UsageError(f"{name} {value!r}: expected True or False")
        return value

    def parse(self, name: str, text: str) -> bool:
        word = text.strip().lower()
        if word not in YES + NO:
            raise UsageError(f"{name} {text!r}: expected {self}")
        return word in YES

    def __str__(self) -> str:
        return "true or false"


@dataclass(frozen=True)
class Picture:
    """A picture, by its path or URL; in a column also its bytes, or Hugging Face's struct of bytes and path."""

    def check(self, name: str, value: object) -> str:
        return Text().check(name, value)

    def parse(self, name: str, text: str) -> str:
        return self.check(name, text)

    def __str__(self) -> str:
        return "a picture's path or URL"


@dataclass(frozen=True)
class Several:
    """One value of a kind, or a list of them; in text they are separated by semicolons.

    Attributes:
        of: the kind of the values.
        networks: whether each value names a network, whose hash the metadata then has.
    """

    of: Text | Number
    networks: bool = False

    def check(self, name: str, value: object) -> tuple[Any, ...]:
        return tuple(self.of.check(name, item) for item in _listed(name, value))

    def parse(self, name: str, text: str) -> tuple[Any, ...]:
        return tuple(self.of.parse(name, item) for item in _split(name, text))

    def __str__(self) -> str:
        return f"{self.of}, or a list of them"


@dataclass(frozen=True)
class Pictures(Picture):
    """One picture, or a list of them."""

    def check(self, name: str, value: object) -> Any:
        return tuple(Picture.check(self, name, item) for item in _listed(name, value))

    def parse(self, name: str, text: str) -> Any:
        return tuple(_split(name, text))

    def __str__(self) -> str:
        return "a picture's path or URL, or a list of them"


def _listed(name: str, value: object) -> Sequence[Any]:
    items = list(value) if isinstance(value, Sequence) and not isinstance(value, str | bytes) else [value]
    if not items:
        raise UsageError(f"{name} is an empty list; leave it out")
    return items


def _split(name: str, text: str) -> list[str]:
    items = [item.strip() for item in text.split(";")]
    if not all(items):
        raise UsageError(f"{name} {text!r}: expected values separated by semicolons, none of them empty")
    return items


@dataclass(frozen=True)
class Seed(Whole):
    """A seed of torch's generators. In a column -1 means no seed, and a float must be exact."""

    minimum: int = 0
    maximum: int = 2**64 - 1
