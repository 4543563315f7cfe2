"""Inspects ControlNet folders in diffusers' format: configuration and headers only. Imports no torch."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from sdbatch.diffusion.checkpoints.configs import (
    Config,
    Kind,
    boolean,
    integer,
    list_of,
    one_or_list,
    optional,
    read_config,
    read_regular,
    text,
)
from sdbatch.diffusion.checkpoints.hub import HUB_ID, fetch_weights
from sdbatch.diffusion.checkpoints.model_info import ModelInfo
from sdbatch.diffusion.checkpoints.weights import (
    MAX_INDEX_BYTES,
    PICKLES,
    PartWeights,
    choose_weights,
    read_headers,
    weights_name,
)
from sdbatch.errors import AdapterError, ModelError

__all__ = ["CONTROLNET_FILES", "NetFolder", "find_controlnet", "inspect_controlnet"]

CONFIG = "config.json"
CONTROLNET_FILES = (CONFIG, "diffusion_pytorch_model*.safetensors", "diffusion_pytorch_model*.safetensors.index*.json")
"""The files of a folder to download."""
PLAIN = ["diffusion_pytorch_model.safetensors", "diffusion_pytorch_model-*.safetensors"]
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
}
# Configuration keys that must equal the UNet's, with the defaults of both classes.
SHARED: Mapping[str, tuple[object, object]] = {
    "block_out_channels": ([320, 640, 1280, 1280], [320, 640, 1280, 1280]),
    "layers_per_block": (2, 2),
    "cross_attention_dim": (1280, 1280),
    "addition_embed_type": (None, None),
    "projection_class_embeddings_input_dim": (None, None),
}
NEEDED = ("conv_in.weight", "controlnet_cond_embedding.conv_in.weight", "controlnet_mid_block.weight")


@dataclass(frozen=True)
class NetFolder:
    """A ControlNet's folder on this machine.

    Attributes:
        folder: the folder with config.json and the weights.
        weights: its weight files; their `part` is the folder itself.
    """

    folder: Path
    weights: PartWeights

    @property
    def files(self) -> list[Path]:
        """The files that can change a picture: the configuration and the weights."""
        index = [self.weights.index] if self.weights.index else []
        return [self.folder / name for name in (CONFIG, *index, *self.weights.files)]


def find_controlnet(name: str, commit: str | None = None) -> Path:
    """The folder of a ControlNet given as a local path or a hub id; from the hub it is downloaded.

    Args:
        commit: the commit on the hub; by default the newest.

    Raises:
        AdapterError: it does not exist, or can't be downloaded.
    """
    folder = Path(name)
    if folder.is_dir():
        return folder
    if folder.exists():
        raise AdapterError(f"controlnet {name!r} is a single file; expected a folder in diffusers' format")
    if not re.fullmatch(HUB_ID, name):
        raise AdapterError(f"controlnet {name!r}: no such folder")
    try:
        folder = fetch_weights(name, commit, PLAIN)
        if any(file.endswith(".safetensors") for file in os.listdir(folder)):
            return folder
        return fetch_weights(name, commit, ["diffusion_pytorch_model*.safetensors"])
    except ModelError as error:
        raise AdapterError(str(error).replace("model ", "controlnet ", 1)) from error


def inspect_controlnet(folder: Path, info: ModelInfo) -> NetFolder:
    """Check that a folder holds a ControlNet for the model, and find its weights.

    Raises:
        AdapterError: the model can't use it; the message names the file and the reason.
    """
    try:
        config = read_config(folder / CONFIG)
        config.check(KINDS)
        if (name := config.get("_class_name")) != "ControlNetModel":
            raise AdapterError(f"{config.source}: {name} is not supported; expected ControlNetModel")
        _check_shared(config, info)
        found = NetFolder(folder, _weights(folder))
        headers = read_headers(folder, found.weights)
    except ModelError as error:
        raise AdapterError(str(error).replace("a diffusers model folder", "a ControlNet's folder")) from error
    if missing := next((name for name in NEEDED if name not in headers), None):
        raise AdapterError(f"{folder / found.weights.files[0]}: lacks {missing}, which a ControlNet has")
    return found


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


def _weights(folder: Path) -> PartWeights:
    def read(name: str) -> Config:
        return Config.parse(read_regular(folder / name, MAX_INDEX_BYTES), folder / name)

    names = os.listdir(folder)
    for variant in (None, "fp16"):
        if found := choose_weights("", names, variant, read):
            return found
    if any(name.endswith(PICKLES) for name in names):
        reason = "its weights are pickled, which can run code when loaded; sdbatch reads safetensors only"
    else:
        reason = f"has no {weights_name('', None)}"
    raise AdapterError(f"{folder}: {reason}")
