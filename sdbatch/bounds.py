"""Bounds of numbers from users: their type, and their range."""

from __future__ import annotations

import math
import numbers
from dataclasses import dataclass
from typing import Any

from sdbatch.errors import UsageError

__all__ = ["MAX_INT64", "Number", "Whole"]

MAX_INT64 = 2**63 - 1
SHOWN_CHARACTERS = 60


@dataclass(frozen=True)
class Whole:
    """A whole number from `minimum` to `maximum`."""

    minimum: int
    maximum: int

    def check(self, name: str, value: Any) -> int:
        """`value` as an int. Raises `UsageError`, which names the option and the bounds."""
        is_whole = isinstance(value, numbers.Integral) and not isinstance(value, bool)
        if not is_whole or not self.minimum <= value <= self.maximum:
            raise UsageError(f"{name} {_shown(value)}: expected {self}")
        return int(value)

    def parse(self, name: str, text: str) -> int:
        """Parse `text`. Raises like `check`."""
        try:
            return self.check(name, int(text))
        except ValueError as exc:
            raise UsageError(f"{name} {_shown(text)}: expected {self}") from exc

    def __str__(self) -> str:
        return f"a whole number from {_bound(self.minimum)} to {_bound(self.maximum)}"


@dataclass(frozen=True)
class Number:
    """A finite number from `minimum` to `maximum`."""

    minimum: float
    maximum: float

    def check(self, name: str, value: Any) -> float:
        """`value` as a float. Raises `UsageError`, which names the option and the bounds."""
        is_number = isinstance(value, numbers.Real) and not isinstance(value, bool)
        if not is_number or not self.minimum <= value <= self.maximum:  # NaN is outside all bounds
            raise UsageError(f"{name} {_shown(value)}: expected {self}")
        return float(value)

    def parse(self, name: str, text: str) -> float:
        """Parse `text`. Raises like `check`."""
        try:
            return self.check(name, float(text))
        except ValueError as exc:
            raise UsageError(f"{name} {_shown(text)}: expected {self}") from exc

    def __str__(self) -> str:
        return f"a number from {_bound(self.minimum)} to {_bound(self.maximum)}"


def _bound(value: float) -> str:
    if value == MAX_INT64:
        return "2^63 - 1"
    return f"{value:,}" if value == math.floor(value) else f"{value:g}"


def _shown(value: object) -> str:
    if isinstance(value, int) and not isinstance(value, bool) and abs(value) >= 10**SHOWN_CHARACTERS:
        return f"of more than {SHOWN_CHARACTERS} digits"  # Python refuses to print very long ones
    text = str(value) if isinstance(value, numbers.Real) else repr(value)
    return text if len(text) <= SHOWN_CHARACTERS else f"{text[:SHOWN_CHARACTERS]}…"
