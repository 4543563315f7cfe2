"""Inspects ControlNet folders in diffusers' format: configuration and headers only. Imports no torch."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from sdbatch.diffusion.adapters.net_folders import CONFIG, NetFolder, read_net_folder
from sdbatch.diffusion.checkpoints.configs import (
    Config,
    Kind,
    boolean,
    integer,
    list_of,
    one_or_list,
    optional,
    read_config,
    text,
)
from sdbatch.diffusion.checkpoints.model_info import ModelInfo
from sdbatch.errors import AdapterError

__all__ = ["UNIONS", "inspect_controlnet", "modes_of"]

UNIONS = ("ControlNetUnionModel", "ControlNetModel_Union")
"""The class of ControlNet Unions: diffusers' name, and the one in published networks."""

KINDS: Mapping[str, Kind] = {
    "_class_name": text(),
    "in_channels": integer(1, 16384),
    "conditioning_channels": integer(1, 16384),
    "block_out_channels": list_of(integer(1, 16384), 1, 16),
    "down_block_types": list_of(text(), 1, 16),
    "layers_per_block": one_or_list(integer(0, 64)),
    "cross_attention_dim": one_or_list(integer(1, 65536)),
    "controlnet_conditioning_channel_order": text("rgb", "bgr"),
    "addition_embed_type": optional(text()),
    "projection_class_embeddings_input_dim": optional(integer(1, 65536)),
    "global_pool_conditions": boolean(),
    "addition_time_embed_dim": optional(integer(1, 65536)),
    "num_control_type": integer(1, 1000),
    "num_trans_channel": integer(1, 16384),
    "num_proj_channel": integer(1, 16384),
}
# Configuration keys that must equal the UNet's, with the defaults of both classes.
SHARED: Mapping[str, tuple[object, object]] = {
    "block_out_channels": ([320, 640, 1280, 1280], [320, 640, 1280, 1280]),
    "layers_per_block": (2, 2),
    "cross_attention_dim": (1280, 1280),
    "addition_embed_type": (None, None),
    "addition_time_embed_dim": (None, None),
    "projection_class_embeddings_input_dim": (None, None),
}
UNION_DEFAULTS = {"num_control_type": 6, "num_trans_channel": 320, "num_proj_channel": 320}
NEEDED = ("conv_in.weight", "controlnet_cond_embedding.conv_in.weight", "controlnet_mid_block.weight")


def inspect_controlnet(folder: Path, info: ModelInfo) -> NetFolder:
    """Check that a folder holds a ControlNet for the model, and find its weights.

    Raises:
        AdapterError: the model can't use it; the message names the file and the reason.
    """
    found = read_net_folder(folder, "a ControlNet", ("ControlNetModel", *UNIONS), KINDS, NEEDED)
    _check_shared(found.config, info)
    if modes_of(found):
        _check_union(found)
    return found


def modes_of(found: NetFolder) -> int:
    """The number of modes of a ControlNet Union; 0 for a plain net."""
    is_union = found.config.get("_class_name") in UNIONS
    return found.config.get("num_control_type", UNION_DEFAULTS["num_control_type"]) if is_union else 0


def _check_union(found: NetFolder) -> None:
    config = found.config
    if config.get("addition_embed_type") != "text_time":
        raise AdapterError(f"{config.source}: a ControlNet Union works with Stable Diffusion XL only")
    for key, wanted in {"global_pool_conditions": False, "controlnet_conditioning_channel_order": "rgb"}.items():
        if (value := config.get(key, wanted)) != wanted:
            raise AdapterError(f"{config.source}: {key} {value} is not supported in a ControlNet Union")
    width = config.get("block_out_channels", SHARED["block_out_channels"][0])[0]
    for key in ("num_trans_channel", "num_proj_channel"):
        if (value := config.get(key, UNION_DEFAULTS[key])) != width:
            raise AdapterError(f"{config.source}: its {key} is {value}, its first block has {width} channels")
    if "task_embedding" not in found.headers:
        raise AdapterError(f"{found.folder / found.weights.files[0]}: lacks task_embedding, which a Union has")


def _check_shared(config: Config, info: ModelInfo) -> None:
    unet = read_config(info.folder / "unet" / CONFIG)
    for key, (default, of_unet) in SHARED.items():
        own, wanted = config.get(key, default), unet.get(key, of_unet)
        if own != wanted:
            raise AdapterError(
                f"{config.source}: made for a different model than {info.name}: its {key} is {own}, the UNet's {wanted}"
            )
    latents = unet.get("in_channels", 4) - info.extra_channels
    if (channels := config.get("in_channels", 4)) != latents:
        raise AdapterError(
            f"{config.source}: its in_channels is {channels}, but the latents of {info.name} have {latents} channels"
        )
    if (channels := config.get("conditioning_channels", 3)) != 3:
        raise AdapterError(f"{config.source}: takes control images with {channels} channels; only RGB is supported")
