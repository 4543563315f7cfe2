"""Finds the files of a component's weights and reads their headers. Reads no weights."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from pathlib import Path

from safetensors import SafetensorError, safe_open

from sdbatch.diffusion.checkpoints.configs import Config, Kind, check_regular, read_regular, text
from sdbatch.errors import ModelError

__all__ = [
    "FLOATS",
    "PartWeights",
    "Tensor",
    "choose_weights",
    "find_weights",
    "index_name",
    "read_header",
    "read_header_and_metadata",
    "read_headers",
    "refuse_quantised",
    "weights_name",
]

SUFFIX = ".safetensors"
PICKLES = (".bin", ".ckpt", ".pt", ".pth")
MAX_INDEX_BYTES = 32 << 20
# Components that are networks of transformers; the others are diffusers'.
OF_TRANSFORMERS = ("text_encoder", "depth_estimator", "image_encoder")
FLOATS = ("F64", "F32", "F16", "BF16")
# Buffers that are not weights: of old CLIP checkpoints, and the counters of batch norms.
IGNORED_TENSORS = ("position_ids", "num_batches_tracked")
WEIGHT_MAP = Kind(
    "an object of file names",
    lambda value: isinstance(value, dict) and bool(value) and all(map(text().accepts, value.values())),
)


@dataclass(frozen=True)
class PartWeights:
    """The weights of one component.

    Attributes:
        part: name of the component's folder.
        variant: in diffusers' sense (`fp16`), or None.
        files: names of the safetensors files in that folder, sorted.
        index: name of the file that maps tensors to files, or None for a single file.
    """

    part: str
    variant: str | None
    files: tuple[str, ...]
    index: str | None = None


@dataclass(frozen=True)
class Tensor:
    """A tensor's entry in a header; `dtype` is safetensors' name, such as `F16`."""

    dtype: str
    shape: tuple[int, ...]

    @property
    def numbers(self) -> int:
        return math.prod(self.shape)


def weights_name(part: str, variant: str | None) -> str:
    """The libraries' name for a component's weights in one file: `model.fp16.safetensors`."""
    stem = "model" if part.startswith(OF_TRANSFORMERS) else "diffusion_pytorch_model"
    return f"{stem}.{variant}{SUFFIX}" if variant else f"{stem}{SUFFIX}"


def index_name(part: str, variant: str | None) -> str:
    """The libraries' name for the index of weights in several files: `model.safetensors.index.fp16.json`."""
    return weights_name(part, None) + (f".index.{variant}.json" if variant else ".index.json")


def choose_weights(
    part: str, names: Collection[str], variant: str | None, read: Callable[[str], Config]
) -> PartWeights | None:
    """The files among `names`, those of a component's folder, that the libraries load for a variant; None if none.

    Files in an index may have any name: diffusers has written both
    `….fp16-00001-of-00002.safetensors` and `…-00001-of-00002.fp16.safetensors`.
    If there is an index beside a single file, diffusers uses the index and transformers the single file.

    Args:
        read: returns the content of an index by its name.

    Raises:
        ModelError: an index is damaged, or has a name that the libraries no longer read.
    """
    single, index = weights_name(part, variant), index_name(part, variant)
    outdated = f"{weights_name(part, None)}.{variant}.index.json"
    if index in names and not (part.startswith(OF_TRANSFORMERS) and single in names):
        return PartWeights(part, variant, tuple(sorted(set(_weight_map(read(index)).values()))), index)
    if single in names:
        return PartWeights(part, variant, (single,))
    if variant and outdated in names:
        raise ModelError(f"{part}/{outdated}: a name that diffusers no longer uses; rename it to {index}")
    return None


def find_weights(
    parts: Collection[str],
    names: Mapping[str, Collection[str]],
    variant: str | None,
    read: Callable[[str, str], Config],
) -> tuple[PartWeights, ...]:
    """Find the weights of all components: those of the variant if a component has it, else the plain ones.

    Without a variant the plain ones are used, or `fp16` if some component has no others.

    Args:
        names: file names in each component's folder.
        read: returns the content of an index by component and name.

    Raises:
        ModelError: a component has no weights or only pickled ones, or no component has the variant.
    """

    def choose(part: str, *variants: str | None) -> PartWeights | None:
        chosen = (choose_weights(part, names[part], each, lambda name: read(part, name)) for each in variants)
        return next((weights for weights in chosen if weights), None)

    order = [(variant, None)] if variant else [(None,), ("fp16", None)]
    found: list[PartWeights | None] = []
    for variants in order:
        found = [choose(part, *variants) for part in parts]
        if all(found):
            break
    if variant and not any(weights and weights.variant for weights in found):
        raise ModelError(f"no component has safetensors weights of variant {variant!r}")
    for part, weights in zip(parts, found, strict=True):
        if weights is None:
            raise ModelError(_no_weights(part, names[part]))
    return tuple(weights for weights in found if weights)


def read_headers(folder: Path, weights: PartWeights) -> dict[str, Tensor]:
    """Every tensor of a component by name, from the headers of its files.

    Raises:
        ModelError: a file is missing, truncated or not safetensors; holds numbers other than floating point,
            which a cast would destroy; or does not match the index.
    """
    index = {}
    if weights.index is not None:
        path = folder / weights.part / weights.index
        index = _weight_map(Config.parse(read_regular(path, MAX_INDEX_BYTES), path))
    tensors: dict[str, Tensor] = {}
    for name in weights.files:
        path = folder / weights.part / name
        found = read_header(path)
        refuse_quantised(path, found)
        listed = {key for key, file in index.items() if file == name}
        if weights.index is not None and (wrong := sorted(listed ^ set(found))):
            where = "lacks" if wrong[0] in listed else "holds, contrary to its index,"
            raise ModelError(f"{path}: {where} {wrong[0]}")
        tensors |= found
    return tensors


def read_header(path: Path) -> dict[str, Tensor]:
    """Every tensor of a safetensors file by name. Raises `ModelError` if it is missing or damaged."""
    return read_header_and_metadata(path)[0]


def read_header_and_metadata(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Every tensor of a safetensors file by name, and the texts in its header. Raises like `read_header`."""
    check_regular(path)
    try:
        with safe_open(path, framework="numpy") as file:
            views = ((key, file.get_slice(key)) for key in file.keys())  # noqa: SIM118  # not a mapping
            tensors = {key: Tensor(view.get_dtype(), tuple(view.get_shape())) for key, view in views}
            return tensors, dict(file.metadata() or {})
    except (SafetensorError, OSError, ValueError) as error:
        raise ModelError(f"{path}: not a complete safetensors file: {error}") from error


def refuse_quantised(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """Raise `ModelError` for numbers other than floating point, which a cast would destroy."""
    for name, tensor in tensors.items():
        if tensor.dtype not in FLOATS and not name.endswith(IGNORED_TENSORS):
            quantised = f"{name} holds {tensor.dtype}; sdbatch reads F64, F32, F16 and BF16, not quantised weights"
            raise ModelError(f"{path}: {quantised}")


def _weight_map(index: Config) -> dict[str, str]:
    files = index.value("weight_map", WEIGHT_MAP)
    if files is None:
        raise ModelError(f"{index.source}: has no weight_map")
    for name in files.values():
        if "/" in name or "\\" in name or not name.endswith(SUFFIX):
            raise ModelError(f"{index.source}: names the file {name!r}; expected safetensors files beside it")
    return files


def _no_weights(part: str, names: Collection[str]) -> str:
    if any(name.endswith(PICKLES) for name in names) and not any(name.endswith(SUFFIX) for name in names):
        return (
            f"the weights of its {part} are pickled (.bin), which can run code when loaded; "
            "sdbatch reads safetensors only. `safe_serialization=True` in save_pretrained converts them"
        )
    return f"its {part} has no safetensors weights ({weights_name(part, None)})"
