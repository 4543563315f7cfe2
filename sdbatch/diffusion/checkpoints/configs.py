"""Reads the JSON configurations of a model with the types that the engine needs.

A `Kind` describes allowed values; a `Config` is a JSON object whose errors name its file.
"""

from __future__ import annotations

import json
import math
import os
import stat
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sdbatch.errors import ModelError

__all__ = [
    "Config",
    "Kind",
    "boolean",
    "check_regular",
    "integer",
    "list_of",
    "mapping",
    "number",
    "one_or_list",
    "optional",
    "read_config",
    "read_regular",
    "text",
]

MAX_CONFIG_BYTES = 1 << 20
MAX_DEPTH = 16
MAX_ITEMS = 64
MAX_SHOWN = 60


@dataclass(frozen=True)
class Kind:
    """A kind of value; `description` completes "expected …"."""

    description: str
    accepts: Callable[[Any], bool]


def integer(low: int = 0, high: float = math.inf) -> Kind:
    bounds = f" from {low} to {high}" if high < math.inf else f" of at least {low}"
    return Kind(f"a whole number{bounds}", lambda value: type(value) is int and low <= value <= high)


def number(low: float = -math.inf, high: float = math.inf, *, infinite: bool = False) -> Kind:
    def accepts(value: Any) -> bool:
        return (
            (type(value) is int or type(value) is float)
            and low <= value <= high
            and (infinite or -1e300 < value < 1e300)
        )

    bounds = f" from {low:g} to {high:g}" if low > -math.inf and high < math.inf else ""
    return Kind(f"a number{bounds}", accepts)


def text(*among: str) -> Kind:
    description = f"one of {', '.join(among)}" if among else "text"
    return Kind(description, lambda value: isinstance(value, str) and (not among or value in among))


def boolean() -> Kind:
    return Kind("true or false", lambda value: isinstance(value, bool))


def optional(kind: Kind) -> Kind:
    return Kind(f"{kind.description}, or null", lambda value: value is None or kind.accepts(value))


def list_of(kind: Kind, minimum: int = 1, maximum: int = MAX_ITEMS) -> Kind:
    length = str(minimum) if minimum == maximum else f"{minimum} to {maximum}"
    return Kind(
        f"a list of {length} values, each {kind.description}",
        lambda value: isinstance(value, list) and minimum <= len(value) <= maximum and all(map(kind.accepts, value)),
    )


def mapping(kinds: Mapping[str, Kind]) -> Kind:
    """An object; keys in `kinds` must have values of their kind."""

    def accepts(value: Any) -> bool:
        return isinstance(value, dict) and all(kind.accepts(value[key]) for key, kind in kinds.items() if key in value)

    return Kind("an object of valid settings", accepts)


def one_or_list(kind: Kind, minimum: int = 1, maximum: int = MAX_ITEMS) -> Kind:
    many = list_of(kind, minimum, maximum)
    return Kind(f"{kind.description}, or a list of them", lambda value: kind.accepts(value) or many.accepts(value))


class Config(Mapping[str, Any]):
    """A JSON object; `source` is the file or URL that it was read from."""

    def __init__(self, values: Mapping[str, Any], source: str | Path) -> None:
        self._values = values
        self.source = str(source)

    @classmethod
    def parse(cls, content: bytes, source: str | Path) -> Config:
        """Parse a JSON object in UTF-8. Raises `ModelError` if it is something else, or is nested too deeply."""
        try:
            values = json.loads(content.decode("utf-8"))
        except RecursionError as error:
            raise ModelError(f"{source}: its JSON is nested too deeply") from error
        except ValueError as error:
            raise ModelError(f"{source}: can't be read as JSON: {error}") from error
        if not isinstance(values, dict):
            raise ModelError(f"{source}: expected a JSON object, not {_shown(values)}")
        if _is_deeper(values, MAX_DEPTH):
            raise ModelError(f"{source}: its JSON is nested more than {MAX_DEPTH} deep")
        return cls(values, source)

    def __getitem__(self, name: str) -> Any:
        return self._values[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)

    def value(self, name: str, kind: Kind, default: Any = None) -> Any:
        """The value of a key, or `default` if the key is absent.

        Raises:
            ModelError: the value is of another kind.
        """
        if name not in self._values:
            return default
        value = self._values[name]
        if not kind.accepts(value):
            raise ModelError(f"{self.source}: {_shown(name)} is {_shown(value)}; expected {kind.description}")
        return value

    def check(self, kinds: Mapping[str, Kind]) -> None:
        """Raise `ModelError` if any of these keys has a value of another kind."""
        for name, kind in kinds.items():
            self.value(name, kind)


def read_config(path: Path) -> Config:
    """A JSON configuration file.

    Raises:
        ModelError: it is missing, not a regular file, larger than 1 MB, or not a JSON object.
    """
    return Config.parse(read_regular(path, MAX_CONFIG_BYTES), path)


def read_regular(path: Path, max_bytes: int) -> bytes:
    """The content of a regular file of at most `max_bytes` bytes. Never waits for a pipe or reads from a device.

    Raises:
        ModelError: there is no such file, or it is empty, something else or larger.
    """
    try:
        # Without O_NONBLOCK, opening a FIFO waits for a writer.
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
        with open(descriptor, "rb") as file:
            check_regular(path, os.fstat(descriptor))
            content = file.read(max_bytes + 1)
    except FileNotFoundError as error:
        raise ModelError(_missing(path)) from error
    except OSError as error:
        raise ModelError(f"{path}: can't be read: {error.strerror or error}") from error
    if len(content) > max_bytes:
        raise ModelError(f"{path}: larger than {max_bytes:,} bytes, the maximum for such a file")
    return content


def check_regular(path: Path, status: os.stat_result | None = None, max_bytes: float = math.inf) -> os.stat_result:
    """The status of a regular file of 1 to `max_bytes` bytes.

    Raises:
        ModelError: there is no such file, or it is empty, too large, a folder, a pipe, a device or a link to nothing.
    """
    try:
        status = status or os.stat(path)
    except FileNotFoundError as error:
        raise ModelError(_missing(path)) from error
    except OSError as error:
        raise ModelError(f"{path}: can't be read: {error.strerror or error}") from error
    if not stat.S_ISREG(status.st_mode):
        kind = "a folder" if stat.S_ISDIR(status.st_mode) else "a pipe or a device"
        raise ModelError(f"{path}: is {kind}, not a file")
    if not status.st_size:  # half of a download; and some files of /proc have no size, and block or never end
        raise ModelError(f"{path}: is empty (0 bytes)")
    if status.st_size > max_bytes:
        raise ModelError(f"{path}: larger than {max_bytes:,} bytes, the maximum for such a file")
    return status


def _missing(path: Path) -> str:
    if path.is_symlink():
        return f"{path}: is a link to a file that does not exist"
    return f"{path.parent}: not a diffusers model folder, {path.name} is missing"


def _is_deeper(value: Any, max_depth: int) -> bool:
    level = [value]
    for _ in range(max_depth):
        children = (item.values() if isinstance(item, dict) else item for item in level)
        level = [child for items in children for child in items if isinstance(child, dict | list)]
        if not level:
            return False
    return True


def _shown(value: Any) -> str:
    try:
        shown = json.dumps(value)
    except (ValueError, RecursionError):  # a number with more digits than Python prints
        return "a value too large to show"
    return shown if len(shown) <= MAX_SHOWN else f"{shown[:MAX_SHOWN]}…"
