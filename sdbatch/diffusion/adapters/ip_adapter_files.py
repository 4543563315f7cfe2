"""Inspects files of IP-Adapters, plain and plus: headers only. Imports no torch."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path

from sdbatch.diffusion.checkpoints.configs import read_config
from sdbatch.diffusion.checkpoints.hub import fetch_weights
from sdbatch.diffusion.checkpoints.model_info import ModelInfo
from sdbatch.diffusion.checkpoints.weights import PartWeights, Tensor, read_headers, weights_name
from sdbatch.errors import AdapterError, ModelError

__all__ = ["ENCODER", "IpAdapterFile", "encoder_files", "find_ip_adapter", "inspect_ip_adapter"]

ENCODER = "image_encoder"
ENCODER_FILES = ("config.json", weights_name(ENCODER, None))
HUB_FILE = re.compile(r"([\w.-]+/[\w.-]+)/(.+\.safetensors)")
# The first key of kinds that sdbatch does not support, and their usual names.
OTHERS = {
    "image_proj.proj.0.weight": "a FaceID or full-face adapter",
    "image_proj.perceiver_resampler.proj_in.weight": "a FaceID Plus adapter",
}


@dataclass(frozen=True)
class IpAdapterFile:
    """An IP-Adapter on this machine.

    Attributes:
        path: its safetensors file.
        encoder: the folder of the CLIP vision tower that it was trained with.
        is_plus: whether its input is the tower's second-to-last hidden states rather than its embedding.
    """

    path: Path
    encoder: Path
    is_plus: bool

    @property
    def encoder_weights(self) -> PartWeights:
        return PartWeights(self.encoder.name, None, (ENCODER_FILES[1],))

    @property
    def files(self) -> list[Path]:
        """The files that can change a picture."""
        return [self.path, *(self.encoder / name for name in ENCODER_FILES)]


def find_ip_adapter(name: str, commit: str | None = None) -> Path:
    """The file of an IP-Adapter given as a local path or org/name/path on the hub; from the hub it is downloaded.

    Raises:
        AdapterError: it does not exist, or can't be downloaded.
    """
    path = Path(name)
    if os.path.isfile(path):  # False for a name too long for a path
        return path
    on_hub = HUB_FILE.fullmatch(name)
    if on_hub is None:
        raise AdapterError(f"ip_adapter {name!r}: no such file")
    repository, inside = on_hub.groups()
    wanted = [inside, *(f"{folder}/{file}" for folder in _encoder_places(Path(inside)) for file in ENCODER_FILES)]
    try:
        path = fetch_weights(repository, commit, wanted) / inside
    except ModelError as error:
        raise AdapterError(f"ip_adapter {name!r}: {error}") from error
    if not path.is_file():
        raise AdapterError(f"ip_adapter {name!r}: {repository} on the hub has no {inside}")
    return path


def encoder_files(inside: Path) -> list[str]:
    """The possible locations of the encoder of an adapter's file, relative to the same folder as its path."""
    return [f"{folder.as_posix()}/{file}" for folder in _encoder_places(inside) for file in ENCODER_FILES]


def inspect_ip_adapter(path: Path, info: ModelInfo) -> IpAdapterFile:
    """Check that a file is an IP-Adapter for the model, and find its encoder beside it.

    Raises:
        AdapterError: the model can't use it; the message names the file and the reason.
    """
    try:
        headers = read_headers(path.parent, PartWeights("", None, (path.name,)))
        kind = _kind(headers, path)
        _check_layers(headers, path, info)
        wanted = headers["image_proj.proj_in.weight" if kind == "plus" else "image_proj.proj.weight"].shape[-1]
        key = "hidden_size" if kind == "plus" else "projection_dim"
        return IpAdapterFile(path, _encoder(path, key, wanted), kind == "plus")
    except ModelError as error:
        raise AdapterError(str(error)) from error


def _kind(headers: dict[str, Tensor], path: Path) -> str:
    if (other := next((OTHERS[key] for key in OTHERS if key in headers), None)) is not None:
        raise AdapterError(f"{path}: {other}; sdbatch supports plain and plus IP-Adapters")
    for kind, keys in (
        ("plain", ("image_proj.proj.weight", "image_proj.norm.weight")),
        ("plus", ("image_proj.latents", "image_proj.proj_in.weight", "image_proj.norm_out.weight")),
    ):
        if all(key in headers for key in keys):
            return kind
    raise AdapterError(f"{path}: not an IP-Adapter: it has neither image_proj.proj.weight nor image_proj.latents")


def _check_layers(headers: dict[str, Tensor], path: Path, info: ModelInfo) -> None:
    text = read_config(info.folder / "unet" / "config.json").get("cross_attention_dim", 1280)
    layers = [tensor for key, tensor in headers.items() if key.endswith(".to_k_ip.weight")]
    if not layers:
        raise AdapterError(f"{path}: not an IP-Adapter: it has no ip_adapter.….to_k_ip.weight")
    if (found := layers[0].shape[-1]) != text:
        raise AdapterError(
            f"{path}: made for a different model than {info.name}: its texts have {found} features, not {text}"
        )


def _encoder(path: Path, key: str, wanted: int) -> Path:
    places = [folder for folder in _encoder_places(path) if (folder / "config.json").is_file()]
    if not places:
        raise AdapterError(
            f"{path}: no {ENCODER} folder beside it, with the CLIP vision tower that it was trained with"
        )
    for folder in places:
        if read_config(folder / "config.json").get(key) == wanted:
            if not (folder / ENCODER_FILES[1]).is_file():
                raise AdapterError(f"{folder}: has no {ENCODER_FILES[1]}")
            return folder
    raise AdapterError(f"{path}: was trained with an {ENCODER} whose {key} is {wanted}, but there is none beside it")


def _encoder_places(path: Path) -> list[Path]:
    """Beside the file; and in `models`, as in the published repository."""
    beside, common = path.parent / ENCODER, path.parent.parent / "models" / ENCODER
    return list(dict.fromkeys([beside, common]))
