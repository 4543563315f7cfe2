"""Loads a model's weights onto a device."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import Any

import diffusers
import torch
import transformers

from sdbatch.diffusion.adapters.lora_files import lora_model
from sdbatch.diffusion.adapters.lora_merge import merge_loras
from sdbatch.diffusion.adapters.lora_rows import Lora
from sdbatch.diffusion.checkpoints.configs import read_config
from sdbatch.diffusion.checkpoints.weights import PartWeights, Tensor, read_headers
from sdbatch.diffusion.device.memory import is_out_of_memory
from sdbatch.diffusion.engine_choices import DEVICES
from sdbatch.diffusion.families import family_named
from sdbatch.diffusion.families.declaration import Part
from sdbatch.diffusion.families.family import Checkpoint, Family
from sdbatch.diffusion.models.added_tokens import add_tokens
from sdbatch.diffusion.models.inspection import INDEX, ModelInfo
from sdbatch.diffusion.models.lean_imports import import_on_demand
from sdbatch.diffusion.models.quiet_libraries import quiet_libraries
from sdbatch.diffusion.models.text_masks import mask_every_batch
from sdbatch.diffusion.pictures.processor_class import processor_class
from sdbatch.errors import ModelError, RunError, UsageError

__all__ = ["load_family", "load_network", "resolve_device", "resolve_dtype"]

DTYPES = {"fp16": torch.float16, "bf16": torch.bfloat16, "fp32": torch.float32}
# Networks that are in none of diffusers' lists.
INSIDE_DIFFUSERS = {
    "StableUnCLIPImageNormalizer": "diffusers.pipelines.stable_diffusion.stable_unclip_image_normalizer"
}
SHOWN_KEYS = 3
# A network is not built if its configuration makes it this much larger than its files: it could fill all memory.
MAX_GROWTH, SMALL_NUMBERS = 2, 1 << 20


def resolve_device(device: str) -> torch.device:
    """`auto`, `cpu` or `cuda` (or `cuda:1`, …) as a device.

    Raises:
        UsageError: an unknown name, or CUDA on a machine without it.
    """
    available = torch.cuda.is_available()
    if device == "auto":
        return torch.device("cuda" if available else "cpu")
    try:
        resolved = torch.device(device)
    except RuntimeError as error:
        raise UsageError(f"device {device!r}: expected one of {', '.join(DEVICES)}") from error
    if resolved.type not in ("cpu", "cuda"):
        raise UsageError(f"device {device!r}: expected one of {', '.join(DEVICES)}")
    if resolved.type == "cuda" and not available:
        raise UsageError("device is 'cuda', but torch finds no CUDA device")
    return resolved


def resolve_dtype(dtype: str, device: torch.device, info: ModelInfo) -> str:
    """Resolve `auto`, `fp16`, `bf16` or `fp32`; `auto` is the family's default on CUDA, and fp32 on a CPU.

    Raises:
        UsageError: an unknown name.
    """
    if dtype == "auto":
        return str(info.defaults["dtype"]) if device.type == "cuda" else "fp32"
    if dtype not in DTYPES:
        raise UsageError(f"dtype {dtype!r}: expected one of auto, {', '.join(DTYPES)}")
    return dtype


def load_family(
    info: ModelInfo,
    dtype: str,
    device: torch.device,
    merged: Sequence[Lora] = (),
    elsewhere: Mapping[str, torch.device] | None = None,
) -> Family:
    """Load all of a model's weights; missing and unused ones are errors.

    Args:
        merged: LoRAs to merge into them.
        elsewhere: parts, by name, that are loaded to another device than `device`, and that device.

    Raises:
        AdapterError: a LoRA does not fit the model, or an embedding has a name that is taken.
        ModelError: a part can't be read, or weights and configuration do not match.
        RunError: it does not fit into the device's memory.
    """
    import_on_demand()
    index = read_config(info.folder / INDEX)
    family = family_named(info.family)
    with quiet_libraries():
        checkpoint = Checkpoint(
            info=info,
            parts={
                part.name: _part(part, index, info, dtype, (elsewhere or {}).get(part.name, device))
                for part in family.parts
                if part.sort != "scheduler"
            },
            device=device,
            dtype=DTYPES[dtype],
            scheduler_config=dict(read_config(info.folder / "scheduler" / "scheduler_config.json")),
            index=index,
        )
    if info.embeddings:
        add_tokens(checkpoint.parts, info.embeddings)
    if merged:
        merge_loras(checkpoint.parts, merged, lora_model(info))
    module, _, name = family.engine.partition(":")
    return getattr(import_module(module), name).of(checkpoint)


def load_network(
    cls: Any,
    folder: Path,
    weights: PartWeights,
    dtype: torch.dtype,
    device: torch.device,
    *,
    of_transformers: bool = False,
) -> torch.nn.Module:
    """Load a standalone network from its configuration and the weights beside it; all weights must be used.

    Raises:
        ModelError: it can't be read, or weights and configuration do not belong together.
        RunError: it does not fit into the device's memory.
    """
    with quiet_libraries(), _mapped(folder, cls.__name__):
        return _module(cls, folder, weights, of_transformers, dtype, device)


def _part(part: Part, index: Mapping[str, Any], info: ModelInfo, dtype: str, device: torch.device) -> Any:
    with _mapped(info.swapped.get(part.name, info.folder), part.name):
        declared = index[part.name][1]
        if part.sort == "tokenizer":
            return _tokenizer_class(part, declared).from_pretrained(info.folder / part.name)
        if part.sort == "noising_scheduler":
            return getattr(diffusers, declared).from_pretrained(info.folder / part.name)
        if part.sort == "processor":
            return processor_class(declared).from_pretrained(info.folder / part.name)
        (weights,) = (weights for weights in info.weights if weights.part == part.name)
        cls = _network_class(part, declared)
        module = _module(cls, info.folder, weights, part.of_transformers, DTYPES[dtype], device)
        if part.sort == "text_encoder":
            mask_every_batch(module)
        return module


def _network_class(part: Part, declared: str) -> Any:
    if declared in INSIDE_DIFFUSERS:
        return getattr(import_module(INSIDE_DIFFUSERS[declared]), declared)
    return getattr(transformers if part.of_transformers else diffusers, declared)


def _tokenizer_class(part: Part, declared: str) -> Any:
    """The tokenizer class named by the family, otherwise by the folder, if transformers has it."""
    cls = getattr(transformers, part.classes[0] if part.classes else declared, None)
    is_tokenizer = isinstance(cls, type) and issubclass(cls, transformers.PreTrainedTokenizerBase)
    return cls if is_tokenizer else transformers.AutoTokenizer


def _module(
    cls: Any, folder: Path, weights: PartWeights, of_transformers: bool, dtype: torch.dtype, device: torch.device
) -> torch.nn.Module:
    found = read_headers(folder, weights)
    # Transformers reports different shapes in its loading information only if it may ignore them.
    options = {"ignore_mismatched_sizes": True} if of_transformers else {}
    _check_shapes(cls, dict(read_config(folder / weights.part / "config.json")), of_transformers, found)
    module, report = cls.from_pretrained(
        folder / weights.part,
        torch_dtype=dtype,
        use_safetensors=True,
        variant=weights.variant,
        output_loading_info=True,
        **options,
    )
    _check_report(module, report)
    return module.to(device).eval().requires_grad_(False)


def _check_shapes(cls: Any, config: dict[str, Any], of_transformers: bool, found: Mapping[str, Tensor]) -> None:
    """Compare the network that the configuration describes, built without memory, with the files' headers."""
    with torch.device("meta"):
        module = cls(cls.config_class(**config)) if of_transformers else cls.from_config(config)
    described = {name: tuple(tensor.shape) for name, tensor in module.state_dict().items()}
    for name in sorted(described.keys() & found.keys()):
        if described[name] != found[name].shape:
            shapes = f"{list(found[name].shape)} in the weights and {list(described[name])} in the configuration"
            raise ModelError(f"{name} is {shapes}")
    numbers = sum(math.prod(shape) for shape in described.values())
    stored = sum(tensor.numbers for tensor in found.values())
    if numbers > MAX_GROWTH * stored + SMALL_NUMBERS:
        raise ModelError(f"its configuration describes {numbers:,} parameters, its weights have {stored:,}")


def _check_report(module: torch.nn.Module, report: Mapping[str, Collection[Any]]) -> None:
    """Refuse weights that are missing, unused or of another shape.

    Weights that the library ties, converts or ignores are not in its report; unsaved buffers do not count as weights.
    """
    buffers = {name.rpartition(".")[2] for name, _ in module.named_buffers()} - {
        name.rpartition(".")[2] for name in module.state_dict()
    }
    unexpected = [name for name in report["unexpected_keys"] if name.rpartition(".")[2] not in buffers]
    mismatched = [entry if isinstance(entry, str) else entry[0] for entry in report["mismatched_keys"]]
    for names, what in (
        (report["missing_keys"], "its weights lack"),
        (unexpected, "its weights have tensors that the network lacks:"),
        (mismatched, "its weights have tensors of another shape than the network:"),
        ([name for name, tensor in module.state_dict().items() if tensor.is_meta], "its weights lack"),
    ):
        if names:
            more = f" and {len(names) - SHOWN_KEYS} more" if len(names) > SHOWN_KEYS else ""
            raise ModelError(f"{what} {', '.join(sorted(names)[:SHOWN_KEYS])}{more}")


@contextmanager
def _mapped(place: Path | str, part: str):
    """Turn any library error about a component into one line that names it and its place."""
    try:
        yield
    except Exception as error:  # the libraries raise all kinds of errors on an invalid configuration
        if is_out_of_memory(error):
            raise RunError(f"{place}: its weights do not fit into the memory of the device") from error
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise ModelError(f"{place}: {part} can't be loaded: {reason}") from error
