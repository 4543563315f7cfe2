"""Kinds of values that only options have: pairs, lists and mappings, which no cell of a table holds.

They have the same two methods as those of `kinds`.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sdbatch.bounds import Whole
from sdbatch.errors import UsageError
from sdbatch.kinds import Text

__all__ = ["SIZE", "Names", "Options", "Pair", "Sizes", "Words"]

PAIR_ITEM = Whole(1, 10_000_000)
SIZE = re.compile(r"([1-9]\d{0,4})x([1-9]\d{0,4})")
"""A picture size as text, width x height."""


@dataclass(frozen=True)
class Pair:
    """Two whole numbers, the first no more than the second; `form` shows the syntax, such as I/N.

    Attributes:
        sign: the separator.
        example: an example for messages.
        single: whether one number alone means both.
    """

    sign: str
    form: str
    example: str
    single: bool = False

    def check(self, name: str, value: Any) -> tuple[int, int]:
        try:
            first, last = value
        except (TypeError, ValueError) as exc:
            raise UsageError(f"{name} {value!r}: expected two whole numbers") from exc
        shown = f"{name} {first}{self.sign}{last}"
        first, last = PAIR_ITEM.check(name, first), PAIR_ITEM.check(name, last)
        if first > last:
            raise UsageError(f"{shown}: expected {self.form}, the first no more than the second")
        return first, last

    def parse(self, name: str, text: str) -> tuple[int, int]:
        first, sign, last = text.partition(self.sign)
        try:
            numbers = int(first), int(last if sign or not self.single else first)
        except ValueError as exc:
            raise UsageError(f"{name} {text!r}: expected {self.form}, such as {self.example}") from exc
        return self.check(name, numbers)

    def __str__(self) -> str:
        return self.form


@dataclass(frozen=True)
class Sizes:
    """Distinct picture sizes as text, such as 768x512,512x768: width x height in pixels."""

    maximum: int = 16

    def check(self, name: str, value: object) -> str:
        if not isinstance(value, str):
            raise UsageError(f"{name} {value!r}: expected {self}")
        sizes = list(dict.fromkeys(value.replace(" ", "").split(","))) if value else []
        if wrong := [size for size in sizes if not SIZE.fullmatch(size)]:
            raise UsageError(f"{name} {wrong[0]!r}: expected {self}")
        if len(sizes) > self.maximum:
            raise UsageError(f"{name}: {len(sizes)} sizes are too many, {self.maximum} at most")
        return ",".join(sorted(sizes))

    def parse(self, name: str, text: str) -> str:
        return self.check(name, text)

    @staticmethod
    def sides(text: str) -> list[tuple[int, int]]:
        """Height and width of each size in a checked text."""
        found = (SIZE.fullmatch(size) for size in text.split(",") if size)
        return [(int(match[2]), int(match[1])) for match in found if match]

    def __str__(self) -> str:
        return "sizes WxH, separated by commas"


@dataclass(frozen=True)
class Names:
    """A mapping of names to names, given one NAME=VALUE at a time.

    Attributes:
        alone: the name of a value that is given without one; empty if every value needs its name.
        plain: whether values may also be numbers, booleans or None, which become text.
    """

    alone: str = ""
    plain: bool = False

    def check(self, name: str, value: object) -> Mapping[str, str]:
        if self.alone and isinstance(value, str | os.PathLike):
            value = {self.alone: os.fspath(value)}
        mapping = Options().check(name, value)
        if self.plain:
            mapping = {key: json.dumps(item) if _is_plain(item) else item for key, item in mapping.items()}
        if not all(isinstance(item, str) for item in mapping.values()):
            expected = "a string or a number" if self.plain else "a string"
            raise UsageError(f"{name} {dict(mapping)!r}: expected {expected} for each name")
        return mapping

    def parse(self, name: str, text: str) -> Mapping[str, str]:
        key, equals, value = text.partition("=")
        if self.alone and text and not (equals and re.fullmatch(r"\w+", key)):
            return {self.alone: text}
        if not (key and equals):
            raise UsageError(f"{name} {text!r}: expected NAME=VALUE")
        return {key: value}

    def __str__(self) -> str:
        return "a mapping of names to names"


def _is_plain(value: object) -> bool:
    return value is None or isinstance(value, bool | int | float)


@dataclass(frozen=True)
class Words:
    """Distinct strings in order, given one at a time."""

    def check(self, name: str, value: object) -> tuple[str, ...]:
        if isinstance(value, str) or not isinstance(value, Sequence):
            raise UsageError(f"{name} {value!r}: expected a list of names")
        words = tuple(Text().check(name, word) for word in value)
        if repeated := [word for word in words if words.count(word) > 1]:
            raise UsageError(f"{name} {repeated[0]}: is given twice")
        return words

    def parse(self, name: str, text: str) -> tuple[str, ...]:
        return self.check(name, [text])

    def __str__(self) -> str:
        return "names"


@dataclass(frozen=True)
class Options:
    """A mapping of names to values of any type; as text, a JSON object."""

    def check(self, name: str, value: object) -> Mapping[str, Any]:
        if not isinstance(value, Mapping) or not all(isinstance(key, str) for key in value):
            raise UsageError(f"{name} {value!r}: expected a mapping of names")
        return value

    def parse(self, name: str, text: str) -> Mapping[str, Any]:
        try:
            value = json.loads(text)
        except (ValueError, RecursionError) as exc:
            raise UsageError(f"{name} is not JSON: {exc}") from exc
        if not isinstance(value, dict):
            raise UsageError(f"{name} {text!r}: expected a JSON object, such as '{{\"anon\": true}}'")
        return value

    def __str__(self) -> str:
        return "a JSON object"
