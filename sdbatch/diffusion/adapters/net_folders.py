"""Folders with one network in diffusers' format: found, and read as far as configuration and headers. No torch."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from sdbatch.diffusion.checkpoints.configs import Config, Kind, read_config, read_regular
from sdbatch.diffusion.checkpoints.hub import HUB_ID, fetch_weights
from sdbatch.diffusion.checkpoints.weights import (
    MAX_INDEX_BYTES,
    PICKLES,
    PartWeights,
    Tensor,
    choose_weights,
    read_headers,
    weights_name,
)
from sdbatch.errors import AdapterError, ModelError

__all__ = ["CONFIG", "NET_FILES", "NetFolder", "find_net_folder", "read_net_folder"]

CONFIG = "config.json"
NET_FILES = (CONFIG, "diffusion_pytorch_model*.safetensors", "diffusion_pytorch_model*.safetensors.index*.json")
"""The files of a folder to download."""
PLAIN = ["diffusion_pytorch_model.safetensors", "diffusion_pytorch_model-*.safetensors"]


@dataclass(frozen=True)
class NetFolder:
    """A network's folder on this machine.

    Attributes:
        folder: the folder with config.json and the weights.
        weights: its weight files; their `part` is the folder itself.
        config: its configuration.
        headers: the tensors of its weight files, by name.
    """

    folder: Path
    weights: PartWeights
    config: Config
    headers: Mapping[str, Tensor]

    @property
    def files(self) -> list[Path]:
        """The files that can change a picture: the configuration and the weights."""
        index = [self.weights.index] if self.weights.index else []
        return [self.folder / name for name in (CONFIG, *index, *self.weights.files)]


def find_net_folder(setting: str, name: str, commit: str | None = None) -> Path:
    """The folder of a network given as a local path or a hub id; from the hub it is downloaded.

    Args:
        setting: the setting that names it.
        commit: the commit on the hub; by default the newest.

    Raises:
        AdapterError: it does not exist, or can't be downloaded.
    """
    folder = Path(name)
    if os.path.isdir(folder):  # False for a name too long for a path
        return folder
    if os.path.exists(folder):
        raise AdapterError(f"{setting} {name!r} is a single file; expected a folder in diffusers' format")
    if not re.fullmatch(HUB_ID, name):
        raise AdapterError(f"{setting} {name!r}: no such folder")
    try:
        folder = fetch_weights(name, commit, PLAIN)
        if any(file.endswith(".safetensors") for file in os.listdir(folder)):
            return folder
        return fetch_weights(name, commit, ["diffusion_pytorch_model*.safetensors"])
    except ModelError as error:
        raise AdapterError(str(error).replace("model ", f"{setting} ", 1)) from error


def read_net_folder(
    folder: Path, called: str, class_names: Sequence[str], kinds: Mapping[str, Kind], needed: Iterable[str]
) -> NetFolder:
    """Read a network's configuration and the headers of its weights.

    Args:
        called: what it is called in messages, such as "a ControlNet".
        class_names: its classes; messages name the first.
        kinds: the allowed values of its configuration.
        needed: names of tensors that every network of this class has.

    Raises:
        AdapterError: it is something else, or can't be read; the message names the file and the reason.
    """
    try:
        config = read_config(folder / CONFIG)
        config.check(kinds)
        if (name := config.get("_class_name")) not in class_names:
            raise AdapterError(f"{config.source}: {name} is not supported; expected {class_names[0]}")
        weights = _weights(folder)
        found = NetFolder(folder, weights, config, read_headers(folder, weights))
    except ModelError as error:
        raise AdapterError(str(error).replace("a diffusers model folder", f"{called}'s folder")) from error
    if missing := next((name for name in needed if name not in found.headers), None):
        raise AdapterError(f"{folder / weights.files[0]}: lacks {missing}, which {called} has")
    return found


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
