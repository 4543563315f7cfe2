"""A cache bounded by bytes."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Generic, TypeVar

__all__ = ["ByteCache"]

Key = TypeVar("Key", bound=Hashable)
Value = TypeVar("Value")


class ByteCache(Generic[Key, Value]):
    """Values by key. `trim` drops those that have not been read or added for longest.

    Args:
        capacity: the bytes that `trim` leaves.
        size: the bytes of a value.
    """

    def __init__(self, capacity: int, size: Callable[[Value], int]) -> None:
        self._capacity = capacity
        self._size = size
        self._bytes = 0
        self._kept: OrderedDict[Key, Value] = OrderedDict()

    def __contains__(self, key: Key) -> bool:
        return key in self._kept

    def __getitem__(self, key: Key) -> Value:
        self._kept.move_to_end(key)
        return self._kept[key]

    def add(self, key: Key, value: Value) -> None:
        """Keep the value of a key that has none yet."""
        self._kept[key] = value
        self._bytes += self._size(value)

    def trim(self, at_least: int = 0) -> None:
        """Drop values until the others fit; `at_least` of them stay in any case."""
        while self._bytes > self._capacity and len(self._kept) > at_least:
            _, dropped = self._kept.popitem(last=False)
            self._bytes -= self._size(dropped)

    def clear(self) -> None:
        self._kept.clear()
        self._bytes = 0
