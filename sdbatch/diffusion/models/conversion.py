"""Converts weights: single-file checkpoints with diffusers' `from_single_file`, and the text encoder of a CLIP."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import diffusers
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from sdbatch.diffusion.checkpoints.single_files import TEXT, UNET, VAE, SingleFile
from sdbatch.diffusion.device.memory import is_out_of_memory
from sdbatch.diffusion.models.lean_imports import import_on_demand
from sdbatch.diffusion.models.quiet_libraries import quiet_libraries
from sdbatch.errors import ModelError, RunError

__all__ = ["add_weights", "copy_text_encoder"]

DTYPES = {"F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}
PREFIXES = {"unet": (UNET,), "vae": (VAE,)}
SHARD = "1000GB"  # one file for each component
SHOWN = 3


def add_weights(file: SingleFile, folder: Path, pipeline: str, parts: Sequence[str]) -> None:
    """Write the weights of each component into its folder, in the types that they have in the file.

    Args:
        folder: holds the configurations and vocabularies.
        pipeline: name of the class in diffusers, of a pipeline or of a network.
        parts: the components that have weights; empty for a network, whose weights go into the folder itself.

    Raises:
        ModelError: the file's tensors do not match the configurations.
        RunError: it does not fit into memory.
    """
    import_on_demand()
    whole = _exact(file.dtypes(UNET, VAE, *TEXT) if parts else file.dtypes(""))
    try:
        with quiet_libraries():
            cls = getattr(diffusers, pipeline)  # importing it prints warnings about unused packages
            source = _by_original_names(file, folder) if file.renamed else file.path
            loaded = cls.from_single_file(str(source), config=str(folder), local_files_only=True, torch_dtype=whole)
            if source != file.path:
                source.unlink()
            for part in parts or ("",):
                module = getattr(loaded, part) if part else loaded
                _check_whole(file, part or pipeline, module)
                module.to(_exact(file.dtypes(*PREFIXES.get(part, TEXT))) if part else whole)
                module.save_pretrained(folder / part, safe_serialization=True, max_shard_size=SHARD)
    except (ModelError, OSError):
        raise
    except Exception as error:  # for unsuitable tensors the libraries raise all kinds of errors
        if is_out_of_memory(error) or isinstance(error, MemoryError):
            raise RunError(f"{file.path}: converting it needs more memory than there is") from error
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        if "meta tensor" in reason:  # a tensor without values
            raise ModelError(f"{file.path}: tensors of its UNet, its VAE or a text encoder are missing") from error
        raise ModelError(f"{file.path}: can't be converted by diffusers: {reason}") from error


def _by_original_names(file: SingleFile, folder: Path) -> Path:
    """A copy of the file in which all tensors have the names that diffusers expects."""
    tensors = load_file(file.path)
    path = folder / "renamed.safetensors"
    save_file({name: tensors[file.renamed.get(name, name)] for name in file.tensors}, path)
    return path


def copy_text_encoder(whole: Path, target: Path, *, projection: bool) -> None:
    """Copy the tensors of a CLIP's text encoder to a file of their own.

    Args:
        whole: the CLIP's safetensors file.
        projection: also the projection of pooled texts.

    Raises:
        ModelError: the file has no text encoder.
    """
    prefixes = ("text_model.", "text_projection.") if projection else ("text_model.",)
    with safe_open(whole, framework="pt") as file:
        tensors = {name: file.get_tensor(name) for name in file.keys() if name.startswith(prefixes)}  # noqa: SIM118
    if not tensors:
        raise ModelError(f"{whole}: has no tensors of a text encoder (text_model.…)")
    save_file(tensors, target, metadata={"format": "pt"})


def _exact(dtypes: set[str]) -> torch.dtype:
    """The smallest type that represents all values of these types."""
    if len(dtypes) == 1:
        return DTYPES[next(iter(dtypes))]
    return torch.float64 if "F64" in dtypes else torch.float32


def _check_whole(file: SingleFile, part: str, module: torch.nn.Module) -> None:
    """Refuse missing and unused weights, about which diffusers only warns."""
    state = module.state_dict()
    if missing := sorted(name for name, tensor in state.items() if tensor.is_meta):
        more = f" and {len(missing) - SHOWN} more" if len(missing) > SHOWN else ""
        raise ModelError(f"{file.path}: its {part} lacks {', '.join(missing[:SHOWN])}{more}")
    if part == "unet" and (found := sum(name.startswith(UNET) for name in file.tensors)) != len(state):
        raise ModelError(f"{file.path}: its UNet has {found} tensors; expected {len(state)}")
