"""Files with weights, such as LoRAs: the kind of their setting, and its syntax."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from sdbatch.errors import UsageError

__all__ = ["WeightedFile", "WeightedFiles", "short_number"]

NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?")


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
