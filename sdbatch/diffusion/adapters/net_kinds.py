"""The kinds of networks that rows name: how each is found on this machine and checked. Imports no torch.

A further kind is one entry here, besides its settings (`net_fields`) and what it does (`row_nets`).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Protocol

from sdbatch.diffusion.adapters.control_files import inspect_controlnet, modes_of
from sdbatch.diffusion.adapters.ip_adapter_files import encoder_files, find_ip_adapter, inspect_ip_adapter
from sdbatch.diffusion.adapters.net_folders import find_net_folder
from sdbatch.diffusion.adapters.t2i_adapter_files import inspect_t2i_adapter
from sdbatch.diffusion.checkpoints.model_info import ModelInfo

__all__ = ["NET_KINDS", "FoundNet", "NetKind"]


class FoundNet(Protocol):
    """A network on this machine; `files` are those that can change a picture."""

    @property
    def files(self) -> list[Path]: ...


@dataclass(frozen=True)
class NetKind:
    """A kind of network.

    Attributes:
        setting: the setting that names networks of this kind.
        find: returns the local path of a name, given perhaps its commit on the hub; raises `AdapterError`.
        inspect: checks that what is at a path is a network for the model; raises `AdapterError`.
        beside: for a network that is a file: the possible paths of what belongs to it, relative to the same folder as
            its own path. None for one that is a folder.
        modes: the number of modes of a network that has some (`control_mode`).
    """

    setting: str
    find: Callable[[str, str | None], Path]
    inspect: Callable[[Path, ModelInfo], FoundNet]
    beside: Callable[[Path], list[str]] | None = None
    modes: Callable[[Any], int] = lambda found: 0


KINDS = (
    NetKind("controlnet", partial(find_net_folder, "controlnet"), inspect_controlnet, modes=modes_of),
    NetKind("ip_adapter", find_ip_adapter, inspect_ip_adapter, beside=encoder_files),
    NetKind("t2i_adapter", partial(find_net_folder, "t2i_adapter"), inspect_t2i_adapter),
)
NET_KINDS = {kind.setting: kind for kind in KINDS}
"""The kinds by setting."""
