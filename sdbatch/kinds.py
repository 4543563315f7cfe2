"""Kinds of values that a setting may have, besides the numbers of `bounds`.

Every kind has `check`, for a Python value, and `parse`, for text from a command line or a file. Both
raise `UsageError` with the option's name, the value and what is expected.
"""

from __future__ import annotations

import json
import math
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from sdbatch.bounds import Number, Whole
from sdbatch.errors import UsageError

__all__ = [
    "Choice",
    "Flag",
    "Kind",
    "Names",
    "Options",
    "Pair",
    "Picture",
    "Pictures",
    "Seed",
    "Several",
    "Text",
    "WeightedFile",
    "WeightedFiles",
    "Words",
    "short_number",
]

PAIR_ITEM = Whole(1, 10_000_000)
NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?")
YES, NO = ("true", "yes", "on", "1"), ("false", "no", "off", "0")


@dataclass(frozen=True)
class Text:
    """Text without NUL.

    Attributes:
        codes: whether a column may hold whole numbers that stand for names.
    """

    codes: bool = False

    def check(self, name: str, value: object) -> str:
        text = os.fspath(value) if isinstance(value, os.PathLike) else value
        if not isinstance(text, str) or "\0" in text:
            raise UsageError(f"{name} {value!r}: expected {self}{' without NUL' * isinstance(text, str)}")
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
            raise UsageError(f"{name} {value!r} is none of: {', '.join(self.words)}")
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


class WeightedFile(NamedTuple):
    """A file with its weight in the denoiser, and its weight in text encoders."""

    path: str
    weight: float = 1.0
    te_weight: float = 1.0

    def __str__(self) -> str:
        both = [self.weight] if self.te_weight == self.weight else [self.weight, self.te_weight]
        return ":".join([self.path, *map(short_number, both)])


@dataclass(frozen=True)
class WeightedFiles:
    """Files with weights as one text: "a.safetensors:0.8;b.safetensors:1", a second number for text encoders.

    In Python and in typed columns also a list of such texts, or of mappings of path, weight and te_weight. A path ends
    at a colon only if a number follows.
    """

    def check(self, name: str, value: object) -> str:
        return ";".join(str(file) for file in self.files(name, value))

    def parse(self, name: str, text: str) -> str:
        return self.check(name, text)

    def files(self, name: str, value: object) -> tuple[WeightedFile, ...]:
        """The files that a value names, in order. Raises `UsageError`."""
        if isinstance(value, str):
            value = [part for part in value.split(";") if part.strip()]
        elif isinstance(value, Mapping) or not isinstance(value, Iterable):
            value = [value]
        return tuple(_weighted_file(name, entry) for entry in value)

    def __str__(self) -> str:
        return "files with weights, such as a.safetensors:0.8;b.safetensors"


def _weighted_file(name: str, entry: Any) -> WeightedFile:
    if isinstance(entry, str):
        path, *numbers = _weights_behind(entry.strip())
    elif isinstance(entry, Mapping) and {"path", "weight", "te_weight"} >= entry.keys():
        numbers = [entry[key] for key in ("weight", "te_weight") if entry.get(key) is not None]
        if entry.get("weight") is None and numbers:
            numbers = [1.0, *numbers]
        path = entry.get("path")
    else:
        raise UsageError(f"{name} {entry!r}: expected {WeightedFiles()}")
    if not isinstance(path, str) or not path or any(sign in path for sign in ";\0\n"):
        raise UsageError(f"{name} {entry!r}: expected the path of a file, without semicolons")
    if not all(isinstance(n, int | float) and not isinstance(n, bool) and math.isfinite(n) for n in numbers):
        raise UsageError(f"{name} {entry!r}: expected finite numbers as weights")
    weight, te_weight = [float(number) for number in (*numbers, *numbers, 1, 1)[:2]] if len(numbers) < 2 else numbers
    return WeightedFile(path, float(weight), float(te_weight))


def _weights_behind(text: str) -> list[Any]:
    """Split a path from up to two numbers after it."""
    numbers: list[float] = []
    while len(numbers) < 2:
        path, colon, last = text.rpartition(":")
        if not (colon and path and NUMBER.fullmatch(last.strip())):
            break
        numbers.insert(0, float(last))
        text = path
    return [text, *numbers]


def short_number(number: float) -> str:
    """The shortest text of a float that reads back as the same value: 1.0 as 1, 0.8 as 0.8."""
    return repr(float(number)).removesuffix(".0")


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

    least: int = 0
    most: int = 2**64 - 1


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
class Names:
    """A mapping of names to names, given one NAME=VALUE at a time."""

    def check(self, name: str, value: object) -> Mapping[str, str]:
        mapping = Options().check(name, value)
        if not all(isinstance(item, str) for item in mapping.values()):
            raise UsageError(f"{name} {dict(mapping)!r}: expected a string for each name")
        return mapping

    def parse(self, name: str, text: str) -> Mapping[str, str]:
        key, equals, value = text.partition("=")
        if not (key and equals):
            raise UsageError(f"{name} {text!r}: expected NAME=VALUE")
        return {key: value}

    def __str__(self) -> str:
        return "a mapping of names to names"


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


Kind = Text | Choice | Flag | Picture | Several | WeightedFiles | Whole | Number | Pair | Names | Words | Options
