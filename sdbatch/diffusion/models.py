"""What a model folder says of itself. Reads configuration files only: no weights, no torch."""

from __future__ import annotations

import functools
import hashlib
import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from sdbatch.diffusion.hub import fetch_configs, fetch_weights
from sdbatch.errors import ModelError

__all__ = ["ModelInfo", "inspect_model", "model_hash"]

HUB_ID = r"[\w.-]+/[\w.-]+"
TINY = Path(__file__).parents[1] / "tiny" / "model"

# diffusers' pipeline classes whose picture the engine makes, by the family that makes it.
FAMILIES = {
    "StableDiffusionPipeline": "sd",
    "LatentConsistencyModelPipeline": "sd",
    "StableDiffusionXLPipeline": "sdxl",
}
COMPONENTS = {
    "sd": ("text_encoder", "tokenizer", "unet", "vae", "scheduler"),
    "sdxl": ("text_encoder", "text_encoder_2", "tokenizer", "tokenizer_2", "unet", "vae", "scheduler"),
}
WEIGHTED = ("text_encoder", "text_encoder_2", "unet", "vae")
CLASSES = {
    "text_encoder": {"CLIPTextModel", "CLIPTextModelWithProjection"},
    "text_encoder_2": {"CLIPTextModelWithProjection"},
    "tokenizer": {"CLIPTokenizer", "CLIPTokenizerFast"},
    "tokenizer_2": {"CLIPTokenizer", "CLIPTokenizerFast"},
    "unet": {"UNet2DConditionModel"},
    "vae": {"AutoencoderKL"},
}
# What changes how a UNet is conditioned or attends; no checkpoint of these families has any.
UNSUPPORTED_IN_UNET = (
    "class_embed_type",
    "num_class_embeds",
    "encoder_hid_dim",
    "encoder_hid_dim_type",
    "cross_attention_norm",
    "dual_cross_attention",
)


@dataclass(frozen=True)
class ModelInfo:
    """A model that the engine can run.

    Attributes:
        name: what the user called it; the folder's name for a folder.
        folder: where it is in diffusers' folder format.
        family: "sd" (Stable Diffusion 1.x and 2.x) or "sdxl".
        prediction_type: what the UNet predicts: "epsilon", "v_prediction" or "sample".
        height, width: its own size in pixels.
        size_multiple: heights and widths are multiples of this many pixels.
        max_tokens: the text encoder's context, special tokens included.
        num_train_timesteps: steps of the diffusion that it was trained on.
        distilled_steps: most steps of lcm and tcd (`original_inference_steps`).
        guidance_embedded: the UNet is told the guidance scale and needs no unconditional pass (LCM).
        variant: weight files are named `….<variant>.safetensors`, None for plain names.
    """

    name: str
    folder: Path
    family: str
    prediction_type: str
    height: int
    width: int
    size_multiple: int
    max_tokens: int
    num_train_timesteps: int
    distilled_steps: int
    guidance_embedded: bool
    variant: str | None = None


def inspect_model(
    model: str | Path,
    *,
    revision: str | None = None,
    variant: str | None = None,
) -> ModelInfo:
    """Read a model's configuration files; a model on the hub is downloaded once they are found to be good.

    Args:
        model: "tiny", the packaged model; a folder in diffusers' format; a hub id such as "org/name".
        revision: branch, tag or commit of a model on the hub.
        variant: of the weight files, such as "fp16"; found out by itself if that is all there is.

    Raises:
        ModelError: no such model, or one that this engine does not run; says which part and why.
    """
    folder, name = (TINY, "tiny") if str(model) == "tiny" else (Path(model), Path(model).resolve().name)
    on_hub = not folder.exists() and re.fullmatch(HUB_ID, str(model)) is not None
    if on_hub:
        folder, name = fetch_configs(str(model), revision), str(model)
    elif revision is not None:
        raise ModelError(f"model {str(model)!r}: a revision is for models on the hub, not for folders")
    if folder.is_file():
        convert = f"StableDiffusionPipeline.from_single_file({folder.name!r}).save_pretrained('my-model')"
        raise ModelError(f"model {str(model)!r} is a single file; convert it once, with diffusers' {convert}")
    if not folder.is_dir():
        raise ModelError(f"model {str(model)!r}: no such folder")
    index = read_config(folder / "model_index.json")
    family = _family(folder, index)
    unet, vae = read_config(folder / "unet" / "config.json"), read_config(folder / "vae" / "config.json")
    scheduler = read_config(folder / "scheduler" / "scheduler_config.json")
    _check_unet(folder, unet, vae, family)
    variant = _fetch_variant(name, folder, family, variant) if on_hub else _check_weights(folder, family, variant)
    scale = 2 ** (len(vae["block_out_channels"]) - 1)
    size = unet.get("sample_size") or (128 if family == "sdxl" else 64)
    height, width = (size, size) if isinstance(size, int) else size
    return ModelInfo(
        name=name,
        folder=folder,
        family=family,
        prediction_type=scheduler.get("prediction_type", "epsilon"),
        height=height * scale,
        width=width * scale,
        size_multiple=math.lcm(scale, 8),  # diffusers' pipelines insist on multiples of 8 whatever the VAE
        max_tokens=_context(folder),
        num_train_timesteps=int(scheduler.get("num_train_timesteps", 1000)),
        distilled_steps=int(scheduler.get("original_inference_steps", 50)),
        guidance_embedded=unet.get("time_cond_proj_dim") is not None,
        variant=variant,
    )


def read_config(path: Path) -> dict:
    """A JSON configuration file.

    Raises:
        ModelError: it is missing or not JSON.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise ModelError(f"{path.parent}: not a diffusers model folder, {path.name} is missing") from error
    except (OSError, ValueError) as error:
        raise ModelError(f"{path}: can't be read as JSON: {error}") from error


@functools.lru_cache(maxsize=16)
def model_hash(info: ModelInfo) -> str:
    """SHA-256, in hex, over the names and contents of all weight files that the engine loads, sorted."""
    digest = hashlib.sha256()
    for path in weight_files(info):
        digest.update(path.relative_to(info.folder).as_posix().encode())
        with path.open("rb") as file:
            while block := file.read(1 << 22):
                digest.update(block)
    return digest.hexdigest()


def weight_files(info: ModelInfo) -> list[Path]:
    """The safetensors files that make up the model, sorted."""
    suffix = f".{info.variant}.safetensors" if info.variant else ".safetensors"
    parts = [part for part in COMPONENTS[info.family] if part in WEIGHTED]
    return sorted(path for part in parts for path in _weights(info.folder / part, suffix))


def _weights(folder: Path, suffix: str) -> list[Path]:
    """Weight files of a component and variant; sharded ones are `model.fp16-00001-of-00002.safetensors`."""
    variant = suffix.removesuffix(".safetensors")
    found = []
    for path in folder.glob("*.safetensors"):
        stem = path.name.removesuffix(".safetensors").partition("-0")[0]
        if Path(stem).suffix == variant:
            found.append(path)
    return found


def _family(folder: Path, index: Mapping) -> str:
    pipeline = index.get("_class_name")
    if pipeline not in FAMILIES:
        supported = ", ".join(FAMILIES)
        raise ModelError(f"{folder}: {pipeline} is not a pipeline that sdbatch runs; it runs {supported}")
    family = FAMILIES[pipeline]
    for part in COMPONENTS[family]:
        declared = index.get(part)
        if not declared or declared[1] is None:
            raise ModelError(f"{folder}: model_index.json names no {part}, which {pipeline} needs")
        if part in CLASSES and declared[1] not in CLASSES[part]:
            wanted = " or ".join(sorted(CLASSES[part]))
            raise ModelError(f"{folder}: its {part} is a {declared[1]}; sdbatch runs {wanted}")
    return family


def _check_unet(folder: Path, unet: Mapping, vae: Mapping, family: str) -> None:
    latent_channels = vae.get("latent_channels", 4)
    in_channels, out_channels = unet.get("in_channels", 4), unet.get("out_channels", 4)
    if in_channels != latent_channels:
        kind = {9: "inpainting", 8: "image editing", 5: "depth-conditioned", 7: "upscaling"}.get(in_channels)
        what = f"a UNet with {in_channels} input channels" + (f" ({kind})" if kind else "")
        raise ModelError(f"{folder}: {what} is not text-to-image, which needs {latent_channels}")
    if out_channels != in_channels:
        raise ModelError(f"{folder}: a UNet that predicts its variance ({out_channels} output channels) can't be run")
    embedding = unet.get("addition_embed_type")
    allowed = {"sd": (None, "text"), "sdxl": ("text_time",)}[family]
    if embedding not in allowed:
        raise ModelError(f"{folder}: a UNet with addition_embed_type {embedding!r} is not supported for {family}")
    blocks = [*unet.get("down_block_types", ()), unet.get("mid_block_type"), *unet.get("up_block_types", ())]
    if foreign := [block for block in blocks if block and "SimpleCrossAttn" in block]:
        raise ModelError(f"{folder}: a UNet of {foreign[0]} blocks is not supported")
    for key in UNSUPPORTED_IN_UNET:
        if unet.get(key):
            raise ModelError(f"{folder}: a UNet with {key} {unet[key]!r} is not supported")


def _fetch_variant(repository: str, folder: Path, family: str, variant: str | None) -> str | None:
    """Download the weights; returns their variant. The folder's name is the commit that its files are of."""
    parts = tuple(part for part in COMPONENTS[family] if part in WEIGHTED)
    candidates = [variant] if variant else [None, "fp16"]
    for candidate in candidates[:-1]:
        fetch_weights(repository, folder.name, parts, candidate)
        if not _missing(folder, parts, candidate):
            return candidate
    fetch_weights(repository, folder.name, parts, candidates[-1])
    return _check_weights(folder, family, variant)


def _missing(folder: Path, parts: tuple[str, ...], variant: str | None) -> list[str]:
    """Components without weight files of a variant."""
    suffix = f".{variant}.safetensors" if variant else ".safetensors"
    return [part for part in parts if not _weights(folder / part, suffix)]


def _context(folder: Path) -> int:
    """The shorter of what the tokenizer says and what the text encoder has positions for."""
    positions = read_config(folder / "text_encoder" / "config.json").get("max_position_embeddings", 77)
    declared = read_config(folder / "tokenizer" / "tokenizer_config.json").get("model_max_length", positions)
    return int(min(declared, positions))


def _check_weights(folder: Path, family: str, variant: str | None) -> str | None:
    """The variant to load; plain weights are preferred unless one is asked for."""
    parts = tuple(part for part in COMPONENTS[family] if part in WEIGHTED)
    for candidate in [variant] if variant else [None, "fp16"]:
        if not _missing(folder, parts, candidate):
            return candidate
    part = _missing(folder, parts, variant)[0]
    if list((folder / part).glob("*.bin")):
        raise ModelError(
            f"{folder}: the weights of its {part} are pickled (.bin), which can run code when loaded; "
            "sdbatch reads safetensors only. `safe_serialization=True` in save_pretrained converts them"
        )
    named = f" of variant {variant!r}" if variant else ""
    raise ModelError(f"{folder}: its {part} has no safetensors weights{named}")
