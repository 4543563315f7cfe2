"""Networks that rows name: found, checked, loaded, and kept in memory."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Generic, TypeVar

from sdbatch.diffusion.adapters.net_kinds import NET_KINDS
from sdbatch.diffusion.adapters.net_settings import MAX_NETS
from sdbatch.diffusion.checkpoints.model_info import ModelInfo
from sdbatch.errors import AdapterError, ModelError

__all__ = ["LoadedNets", "net_loader"]

Net = TypeVar("Net")


def net_loader(
    setting: str, info: ModelInfo, load: Callable[[Any], Net], find: Callable[[str], Path] | None = None
) -> Callable[[str], Net]:
    """A function that loads the networks of a model's rows by name.

    Args:
        setting: the setting that names them.
        load: loads the network that the kind's `inspect` has found; may raise `ModelError`.
        find: returns the local path of a name; by default a name is a local path, or one on the hub.
    """
    kind = NET_KINDS[setting]

    def load_named(name: str) -> Net:
        """Raises `AdapterError` if the network can't be found, read or used with the model."""
        try:
            net = load(kind.inspect(kind.find(name, None) if find is None else find(name), info))
        except ModelError as error:
            raise AdapterError(str(error)) from error
        if find is not None:
            find(name)  # also detects a file that was replaced while it was loaded
        return net

    return load_named


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
