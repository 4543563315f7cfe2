"""Networks that rows name, in memory."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterator
from typing import Generic, TypeVar

from sdbatch.diffusion.adapters.control_rows import MAX_NETS

__all__ = ["LoadedNets"]

Net = TypeVar("Net")


class LoadedNets(Generic[Net]):
    """Networks by name, each loaded when it is read; at most `MAX_NETS`, the least recently read are dropped first.

    Args:
        load: loads the network of a name.
    """

    def __init__(self, load: Callable[[str], Net]) -> None:
        self._load = load
        self._nets: OrderedDict[str, Net] = OrderedDict()

    def __iter__(self) -> Iterator[str]:
        """The names of those in memory, the most recently read last."""
        return iter(self._nets)

    def __getitem__(self, name: str) -> Net:
        if name not in self._nets:
            while len(self._nets) >= MAX_NETS:
                self._nets.popitem(last=False)
            self._nets[name] = self._load(name)
        self._nets.move_to_end(name)
        return self._nets[name]
