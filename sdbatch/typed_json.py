"""JSON objects from untrusted files: every value is checked when it is read."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, fields
from typing import TYPE_CHECKING, Any, TypeVar

from sdbatch.errors import UsageError

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

__all__ = ["TypedObject", "read_object"]

T = TypeVar("T", bound="DataclassInstance")
MAX_FLOAT = sys.float_info.max  # a whole number in JSON can be larger than any float


def read_object(data: bytes, where: str) -> TypedObject:
    """The JSON object that a file holds. Raises `UsageError`, naming the file, if it holds none."""
    try:
        content = json.loads(data)
    except (ValueError, RecursionError) as exc:
        raise UsageError(f"{where}: cannot be read as JSON ({exc}); restore it, or use another OUT") from exc
    return TypedObject(content, where)


class TypedObject:
    """A JSON object with typed getters.

    Every method raises `UsageError`, with the file and the key, if the value is missing, of another type or out
    of bounds; `missing` is the default of an optional key.

    Args:
        where: the file, for messages.
        path: the keys that lead to this object.
    """

    REQUIRED: Any = object()

    def __init__(self, content: Any, where: str, path: str = "") -> None:
        self._where, self._path = where, path
        if not isinstance(content, dict):
            raise self._wrong(path, content, "an object")
        self.content: Mapping[str, Any] = content

    def text(self, key: str, missing: Any = REQUIRED) -> str:
        return self._take(key, "text", lambda value: isinstance(value, str), missing)

    def choice(self, key: str, choices: Sequence[str]) -> str:
        return self._take(key, f"one of {', '.join(choices)}", lambda value: value in choices, self.REQUIRED)

    def whole(self, key: str, minimum: int, maximum: int, missing: Any = REQUIRED) -> int:
        return self._take(
            key,
            f"a whole number from {minimum:,} to {maximum:,}",
            lambda value: _is_whole(value, minimum, maximum),
            missing,
        )

    def flag(self, key: str, missing: Any = REQUIRED) -> bool:
        return self._take(key, "true or false", lambda value: isinstance(value, bool), missing)

    def number(self, key: str, missing: Any = REQUIRED) -> float:
        return self._take(key, "a number", _is_number, missing)

    def object(self, key: str, missing: Any = REQUIRED) -> TypedObject:
        value = self._take(key, "an object", lambda value: isinstance(value, dict), missing)
        return TypedObject(value, self._where, self._key(key))

    def texts(self, key: str, missing: Any = REQUIRED) -> dict[str, str]:
        """An object whose values are text."""
        found = self.object(key, missing)
        return {name: found.text(name) for name in found.content}

    def objects(self, key: str, missing: Any = REQUIRED) -> list[TypedObject]:
        """A list of objects."""
        values = self._take(key, "a list", lambda value: isinstance(value, list), missing)
        return [TypedObject(value, self._where, f"{self._key(key)}[{i}]") for i, value in enumerate(values)]

    def words(self, key: str, missing: Any = REQUIRED) -> tuple[str, ...]:
        """A list of texts."""

        def fits(value: Any) -> bool:
            return isinstance(value, list) and all(isinstance(one, str) for one in value)

        return tuple(self._take(key, "a list of texts", fits, missing))

    def values(self, key: str, missing: Any = REQUIRED) -> Any:
        """A list of texts and numbers."""

        def fits(value: Any) -> bool:
            return isinstance(value, list) and all(isinstance(one, str) or _is_number(one) for one in value)

        return self._take(key, "a list of texts or numbers", fits, missing)

    def wholes(self, key: str, minimum: int, maximum: int, missing: Any = REQUIRED) -> tuple[int, ...]:
        """A list of whole numbers."""
        wanted = f"a list of whole numbers from {minimum:,} to {maximum:,}"
        return tuple(
            self._take(
                key,
                wanted,
                lambda value: isinstance(value, list) and all(_is_whole(one, minimum, maximum) for one in value),
                missing,
            )
        )

    def record(self, kind: type[T]) -> T:
        """The object as a dataclass that checks its own values; its errors begin with the wrong value's name."""
        specs = {spec.name: spec for spec in fields(kind)}
        for name in self.content:
            if name not in specs:
                raise UsageError(f"{self._where}: {self._key(name)} is unknown to this sdbatch; use a newer one")
        for name, spec in specs.items():
            if name not in self.content and spec.default is MISSING:
                raise self._lacks(name)
        try:
            return kind(**self.content)
        except UsageError as exc:
            raise UsageError(f"{self._where}: {self._key('')}{exc}; restore the file, or use another OUT") from exc

    def wrong(self, key: str, wanted: str) -> UsageError:
        """The error for a wrong value."""
        return self._wrong(self._key(key), self.content.get(key), wanted)

    def _key(self, key: str) -> str:
        return f"{self._path}.{key}" if self._path else key

    def _take(self, key: str, wanted: str, fits: Any, missing: Any) -> Any:
        if key not in self.content or (self.content[key] is None and missing is not self.REQUIRED):
            if missing is self.REQUIRED:
                raise self._lacks(key)
            return missing
        if not fits(self.content[key]):
            raise self.wrong(key, wanted)
        return self.content[key]

    def _lacks(self, key: str) -> UsageError:
        return UsageError(f"{self._where}: {self._key(key)} is missing; restore the file, or use another OUT")

    def _wrong(self, path: str, value: Any, wanted: str) -> UsageError:
        shown = repr(value) if len(repr(value)) <= 60 else repr(value)[:60] + "…"
        named = f"{path} is {shown}" if path else f"is {shown}"
        return UsageError(f"{self._where}: {named}; expected {wanted}; restore the file, or use another OUT")


def _is_whole(value: Any, minimum: int, maximum: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and minimum <= value <= maximum


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and -MAX_FLOAT <= value <= MAX_FLOAT
