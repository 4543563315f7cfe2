"""Networks that rows name: found, checked, loaded, and kept in memory."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Generic, TypeVar

import torch

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
    """Networks by name, each loaded when it is read.

    At least `MAX_NETS` are kept, and more while there is memory for another; the least recently read are dropped first.

    Args:
        load: loads the network of a name.
        spare: returns the bytes that networks may still take.
    """

    def __init__(self, load: Callable[[str], Net], spare: Callable[[], int]) -> None:
        self._load = load
        self._spare = spare
        self._nets: OrderedDict[str, Net] = OrderedDict()
        self._largest = 0

    def __iter__(self) -> Iterator[str]:
        """The names of those in memory, the most recently read last."""
        return iter(self._nets)

    def __contains__(self, name: str) -> bool:
        return name in self._nets

    def __getitem__(self, name: str) -> Net:
        if name not in self._nets:
            while len(self._nets) >= MAX_NETS and self._spare() < self._largest:
                self._nets.popitem(last=False)
            self._nets[name] = self._load(name)
            self._largest = max(self._largest, _bytes(self._nets[name]))
        self._nets.move_to_end(name)
        return self._nets[name]

    def shrink(self) -> bool:
        """Drop all but `MAX_NETS`, and keep no more from now on; returns whether there were more."""
        self._spare = lambda: -1
        dropped = [*self._nets][:-MAX_NETS]
        for name in dropped:
            del self._nets[name]
        return bool(dropped)


def _bytes(net: Any) -> int:
    """The bytes of a network's weights."""
    parts = [net, *vars(net).values()]
    modules = [part for part in parts if isinstance(part, torch.nn.Module)]
    tensors = [part for part in parts if isinstance(part, torch.Tensor)]
    tensors += [weight for module in modules for weight in (*module.parameters(), *module.buffers())]
    return sum({id(tensor): tensor.nbytes for tensor in tensors}.values())
