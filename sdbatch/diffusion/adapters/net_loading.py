"""Loads the networks that rows name."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

import diffusers
import torch

from sdbatch.diffusion.adapters.control_files import modes_of
from sdbatch.diffusion.adapters.control_nets import ControlNets
from sdbatch.diffusion.adapters.ip_adapter_loading import load_ip_adapter
from sdbatch.diffusion.adapters.ip_adapter_nets import IpAdapters
from sdbatch.diffusion.adapters.loaded_nets import net_loader
from sdbatch.diffusion.adapters.net_folders import NetFolder
from sdbatch.diffusion.adapters.row_nets import RowNets
from sdbatch.diffusion.adapters.t2i_adapter_nets import T2IAdapters
from sdbatch.diffusion.checkpoints.model_info import ModelInfo
from sdbatch.diffusion.models.loading import load_network

__all__ = ["row_nets"]


def row_nets(
    info: ModelInfo,
    unet: torch.nn.Module,
    spare: Callable[[], int],
    find: Callable[[str], Path] | None = None,
    *,
    skips_layers: bool = False,
) -> RowNets:
    """Applies the networks of a UNet's rows, each loaded when a row first needs it.

    Args:
        spare: returns the bytes that networks may still take on the UNet's device.
        find: returns the local path of a name; by default a name is a local path, or one on the hub.
        skips_layers: whether passes leave layers out, as with DeepCache.
    """

    def load(class_name: str, found: NetFolder) -> torch.nn.Module:
        cls = getattr(diffusers, class_name)  # imports much that engines without such rows do not need
        return load_network(cls, found.folder, found.weights, unet.dtype, unet.device)

    def load_controlnet(found: NetFolder) -> torch.nn.Module:
        return load("ControlNetUnionModel" if modes_of(found) else "ControlNetModel", found)

    controlnets = net_loader("controlnet", info, load_controlnet, find)
    t2i_adapters = net_loader("t2i_adapter", info, partial(load, "T2IAdapter"), find)
    return RowNets(
        ControlNets(controlnets, spare, info.vae_scale),
        IpAdapters(net_loader("ip_adapter", info, lambda found: load_ip_adapter(found, unet), find), spare),
        T2IAdapters(t2i_adapters, spare, info.vae_scale),
        skips_layers=skips_layers,
    )
