"""Inspects folders of T2I-Adapters in diffusers' format: configuration and headers only. Imports no torch."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from sdbatch.diffusion.adapters.net_folders import CONFIG, NetFolder, read_net_folder
from sdbatch.diffusion.checkpoints.configs import Config, Kind, integer, list_of, read_config, text
from sdbatch.diffusion.checkpoints.model_info import ModelInfo
from sdbatch.errors import AdapterError

__all__ = ["Feature", "inspect_t2i_adapter", "takes_gray", "unet_features"]

TYPES = ("full_adapter", "full_adapter_xl", "light_adapter")
KINDS: Mapping[str, Kind] = {
    "_class_name": text(),
    "adapter_type": text(*TYPES),
    "in_channels": integer(1, 16384),
    "channels": list_of(integer(4, 16384), 1, 16),
    "num_res_blocks": integer(1, 64),
    "downscale_factor": integer(1, 64),
}
NEEDED = ("adapter.body.0.resnets.0.block1.weight",)
CHANNELS = [320, 640, 1280, 1280]
DOWN_BLOCKS = ["CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"]
GRAY, RGB = 1, 3


class Feature(NamedTuple):
    """Features that are added within a UNet: their channels, and cells or pixels per side of one of them."""

    channels: int
    scale: int


def inspect_t2i_adapter(folder: Path, info: ModelInfo) -> NetFolder:
    """Check that a folder holds a T2I-Adapter for the model, and find its weights.

    Raises:
        AdapterError: the model can't use it; the message names the file and the reason.
    """
    found = read_net_folder(folder, "a T2I-Adapter", ("T2IAdapter",), KINDS, NEEDED)
    config = found.config
    if (channels := config.get("in_channels", RGB)) not in (GRAY, RGB):
        raise AdapterError(f"{config.source}: takes pictures with {channels} channels; only gray and RGB are supported")
    _check_features(config, info)
    _check_input(found)
    return found


def takes_gray(config: Mapping[str, object]) -> bool:
    """Whether an adapter of this configuration takes gray pictures rather than RGB."""
    return config.get("in_channels", RGB) == GRAY


def unet_features(unet: Config) -> list[Feature]:
    """What a UNet can add features to, in order, in cells of its latents: its blocks on the way down, then its middle.

    diffusers adds to a block with attention before it halves the size, and to others afterwards.
    """
    widths = unet.get("block_out_channels", CHANNELS)
    found, scale = [], 1
    for i, (block, width) in enumerate(zip(unet.get("down_block_types", DOWN_BLOCKS), widths, strict=False)):
        before, scale = scale, scale if i == len(widths) - 1 else 2 * scale
        found.append(Feature(width, before if "CrossAttn" in block else scale))
    return [*found, Feature(widths[-1], scale)]


def _features(config: Config) -> list[Feature]:
    """The features of an adapter, in pixels of its picture."""
    kind, channels = config.get("adapter_type", TYPES[0]), config.get("channels", CHANNELS)
    factor = config.get("downscale_factor", 8)
    if kind == "full_adapter_xl":
        if len(set(channels[2:])) > 1:
            raise AdapterError(f"{config.source}: a full_adapter_xl has the same channels from the third on")
        return [Feature(width, factor * (1 if i < 2 else 2)) for i, width in enumerate(channels)]
    widths = [*channels, channels[-1]] if kind == "light_adapter" else channels
    return [Feature(width, factor * 2**i) for i, width in enumerate(widths)]


def _check_features(config: Config, info: ModelInfo) -> None:
    wanted = [
        Feature(channels, info.vae_scale * scale)
        for channels, scale in unet_features(read_config(info.folder / "unet" / CONFIG))
    ]
    made = _features(config)
    other = f"{config.source}: made for a different model than {info.name}"
    if len(made) > len(wanted):
        raise AdapterError(f"{other}: it makes {len(made)} features, the UNet takes at most {len(wanted)}")
    for i, (own, of_unet) in enumerate(zip(made, wanted, strict=False), start=1):
        if own != of_unet:
            raise AdapterError(f"{other}: its features {i} are {_words(own)}, the UNet takes {_words(of_unet)}")


def _words(feature: Feature) -> str:
    return f"{feature.channels} channels at 1/{feature.scale} of the size"


def _check_input(found: NetFolder) -> None:
    """Compare the width of the first layer with the configuration."""
    name = "body.0.in_conv" if found.config.get("adapter_type") == "light_adapter" else "conv_in"
    tensor = found.headers.get(f"adapter.{name}.weight")
    wanted = found.config.get("in_channels", RGB) * found.config.get("downscale_factor", 8) ** 2
    if tensor is None or tensor.shape[1:2] != (wanted,):
        shape = "missing" if tensor is None else list(tensor.shape)
        file = found.folder / found.weights.files[0]
        raise AdapterError(f"{file}: adapter.{name}.weight is {shape}; by {CONFIG} it takes {wanted} channels")
