"""Detects from a file's header what a single-file checkpoint is: a Stable Diffusion model, or something else.

Such files have the tensor names of the original repositories, and are shared for web UIs.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from sdbatch.diffusion.checkpoints.weights import (
    FLOATS,
    SUFFIX,
    Tensor,
    read_header,
    read_header_and_metadata,
    refuse_quantised,
)
from sdbatch.errors import ModelError

__all__ = ["SINGLE_FILE_SUFFIXES", "SingleFile", "read_single_file", "read_single_vae", "refuse_pickle"]

SINGLE_FILE_SUFFIXES = (SUFFIX, ".ckpt", ".pt", ".pth", ".gguf")
UNET, VAE = "model.diffusion_model.", "first_stage_model."
TEXT = ("cond_stage_model.", "conditioner.embedders.")
CONV_IN = f"{UNET}input_blocks.0.0.weight"
# diffusers tells text encoders apart by the same tensors.
CLIP = "cond_stage_model.transformer.text_model.embeddings.position_embedding.weight"
OPEN_CLIP = "cond_stage_model.model.token_embedding.weight"
XL_CLIP = "conditioner.embedders.0.transformer.text_model.embeddings.position_embedding.weight"
XL_OPEN_CLIP = "conditioner.embedders.1.model.positional_embedding"
XL_REFINER = "conditioner.embedders.0.model.text_projection"
EMA = "model_ema."
# Names of older files and, for 2.x, of the repository that SD-Turbo comes from; AUTOMATIC1111 reads them, too.
OLD_CLIP = "cond_stage_model.transformer."
OLD_CLIP_PARTS = ("embeddings.", "encoder.", "final_layer_norm.")
SGM, SGM_OPEN_CLIP = "conditioner.embedders.0.", "conditioner.embedders.0.model.ln_final.weight"
NOT_SGM = ("conditioner.embedders.1.", f"{UNET}label_emb.")  # XL and its refiner
LORA_PARTS = ("lora_unet_", "lora_te", ".lora_down.", ".lora_up.", ".lora_A.", ".lora_B.", ".lora.", ".hada_", ".lokr_")
CHANNELS = {5: "depth to image", 7: "upscaling", 8: "editing by instruction"}
TRANSFORMERS = {
    "double_blocks.": "a FLUX model",
    "joint_blocks.": "Stable Diffusion 3",
    "transformer_blocks.": "a transformer",
    "blocks.": "a transformer",
    "layers.": "a transformer",
}


@dataclass(frozen=True)
class SingleFile:
    """A Stable Diffusion checkpoint in one file.

    Attributes:
        path: the file's path.
        kind: "sd1", "sd2", "sdxl", or "vae" if only the VAE in it is used.
        tensors: the tensors that its header lists, by name.
        metadata: the texts in its header, by key.
        renamed: the names in the file of tensors that are listed by the names of the original repository.
    """

    path: Path
    kind: str
    tensors: Mapping[str, Tensor]
    metadata: Mapping[str, str]
    renamed: Mapping[str, str] = field(default_factory=dict)

    def shape(self, name: str, *dimensions: int) -> tuple[int, ...]:
        """The shape of a tensor.

        Args:
            dimensions: the allowed numbers of dimensions.

        Raises:
            ModelError: there is no such tensor, or it has another number of dimensions.
        """
        if name not in self.tensors:
            raise ModelError(f"{self.path}: lacks {name}")
        shape = self.tensors[name].shape
        if len(shape) not in dimensions:
            raise ModelError(
                f"{self.path}: {name} has the shape {list(shape)}, which no Stable Diffusion checkpoint has"
            )
        return shape

    def count(self, name: str, first: int = 0) -> int:
        """The number of tensors whose name is `name` with consecutive numbers in it, counted from `first`."""
        number = first
        while name.format(number) in self.tensors:
            number += 1
        return number - first

    def dtypes(self, *prefixes: str) -> set[str]:
        """The floating-point types of the tensors whose names have one of these prefixes, in safetensors' notation."""
        return {
            tensor.dtype
            for name, tensor in self.tensors.items()
            if name.startswith(prefixes) and tensor.dtype in FLOATS
        }


def read_single_file(path: Path) -> SingleFile:
    """Read the header of a checkpoint of Stable Diffusion 1.x, 2.x or XL, also for inpainting.

    Raises:
        ModelError: it is pickled, damaged, quantised, or something else; the message names what it is.
    """
    refuse_pickle(str(path))
    found, metadata = read_header_and_metadata(path)
    originals = _original_names(found)
    tensors = {originals.get(name, name): tensor for name, tensor in found.items()}
    if reason := _refusal(tensors):
        raise ModelError(f"{path}: {reason}")
    refuse_quantised(path, {name: tensor for name, tensor in tensors.items() if name.startswith((UNET, VAE, *TEXT))})
    kind = "sdxl" if XL_CLIP in tensors else "sd1" if CLIP in tensors else "sd2"
    return SingleFile(path, kind, tensors, metadata, {original: name for name, original in originals.items()})


def _original_names(tensors: Collection[str]) -> dict[str, str]:
    """The names in the original repository of tensors that have others in a file."""
    is_sgm = SGM_OPEN_CLIP in tensors and not any(name.startswith(NOT_SGM) for name in tensors)
    names = {}
    for name in tensors:
        if name.removeprefix(OLD_CLIP).startswith(OLD_CLIP_PARTS) and name.startswith(OLD_CLIP):
            names[name] = f"{OLD_CLIP}text_model.{name.removeprefix(OLD_CLIP)}"
        elif is_sgm and name.startswith(SGM):
            names[name] = f"cond_stage_model.{name.removeprefix(SGM)}"
    return names


def read_single_vae(path: Path) -> tuple[SingleFile, str]:
    """Read the header of a VAE, or of a checkpoint with one. Returns also the prefix of the VAE's tensor names.

    Raises:
        ModelError: it has no VAE in the layout of the original repositories, or is quantised.
    """
    tensors = read_header(path)
    prefix = VAE if any(name.startswith(VAE) for name in tensors) else ""
    if f"{prefix}encoder.down.0.block.0.conv1.weight" not in tensors:
        reason = "has no VAE in the layout of the original repositories"
        if any(name.startswith("encoder.down_blocks.") for name in tensors):
            reason = "is in diffusers' layout; name its folder, with config.json in it"
        raise ModelError(f"{path}: {reason}")
    own = {name: tensor for name, tensor in tensors.items() if name.startswith(prefix)}
    refuse_quantised(path, own)
    return SingleFile(path, "vae", own, {}), prefix


def refuse_pickle(name: str) -> None:
    """Raise `ModelError` if the name is not that of a safetensors file."""
    if not name.endswith(SUFFIX):
        reason = "is not a .safetensors file"
        if name.endswith((".ckpt", ".pt", ".pth", ".bin")):
            reason = "is pickled, and can run code when loaded; sdbatch reads safetensors only"
        raise ModelError(f"model {name!r}: {reason}")


def _refusal(tensors: Mapping[str, Tensor]) -> str | None:
    """The reason why a file cannot be converted; None if it can."""
    if any(part in name for name in tensors for part in LORA_PARTS):
        return "is a LoRA, not a model; name it with --lora"
    if not tensors:
        return "has no tensors"
    if "emb_params" in tensors or tensors.keys() <= {"clip_l", "clip_g"}:
        return "is a textual inversion embedding, not a model; name it with --embedding"
    if any(name.startswith(("control_model.", "controlnet_cond_embedding.")) for name in tensors):
        return "is a ControlNet, not a model; rows name a ControlNet's folder in the column controlnet"
    if CONV_IN not in tensors:
        return _without_unet(tensors)
    channels = tensors[CONV_IN].shape[1] if len(tensors[CONV_IN].shape) == 4 else 0
    if channels not in (4, 9):
        purpose = f" ({CHANNELS[channels]})" if channels in CHANNELS else ""
        return f"its UNet has {channels} input channels{purpose}; single files must have 4, or 9 for inpainting"
    if "edm_mean" in tensors:
        return "is Playground 2.5, which is not supported"
    if XL_REFINER in tensors:
        return "is the SDXL refiner, which must be a folder in diffusers' format"
    if not ({CLIP, OPEN_CLIP} & tensors.keys() or {XL_CLIP, XL_OPEN_CLIP} <= tensors.keys()):
        return "has no text encoder of Stable Diffusion 1.x, 2.x or XL; use the complete checkpoint"
    if not any(name.startswith(VAE) for name in tensors):
        return "has no VAE; use the complete checkpoint"
    return None


def _without_unet(tensors: Mapping[str, Tensor]) -> str:
    names = [name.removeprefix(UNET) for name in tensors]
    if any(name.startswith(("down_blocks.", "encoder.down_blocks.", "text_model.")) for name in names):
        return "is one component of a model in diffusers' format; name the folder with model_index.json"
    if any(name.startswith(EMA) for name in tensors):
        return f"has only averaged weights of its UNet ({EMA}…), which are not read; use the complete checkpoint"
    for start, what in TRANSFORMERS.items():
        if any(name.startswith(start) for name in names):
            kinds = "Stable Diffusion 1.x, 2.x and XL"
            return f"is {what}; single files may be {kinds}, other models must be folders in diffusers' format"
    if any(name.startswith((VAE, "decoder.conv_in.")) for name in tensors):
        return "is a VAE, not a model; name it with --vae"
    return f"is not a Stable Diffusion checkpoint: it has no tensor {CONV_IN}"
