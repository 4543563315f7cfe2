"""Reads the headers of LoRA files: which layers of a model a file changes, or why it is rejected.

Nothing here reads a tensor or imports torch, so that a plan can look at every file of a table.
"""

from __future__ import annotations

import json
import math
import re
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import accumulate
from typing import Any, BinaryIO

from sdbatch.diffusion.adapters.lora_names import DENOISERS, Layer, Layers, joined_names, layer_names, model_layers
from sdbatch.diffusion.adapters.safetensors_header import Refused, read_tensors
from sdbatch.diffusion.checkpoints.model_info import ModelInfo
from sdbatch.diffusion.checkpoints.weights import FLOATS, Tensor, read_headers
from sdbatch.errors import AdapterError

__all__ = ["LoraHeader", "LoraLayer", "LoraModel", "lora_model", "read_lora_header"]

LARGEST = sys.float_info.max  # a whole number in JSON can be larger than any float
MAX_RANK = 512
# The text width of a model's cross-attention, and the name of such models.
BASES = {768: "Stable Diffusion 1.x", 1024: "Stable Diffusion 2.x", 2048: "Stable Diffusion XL"}
# Parts of tensor names that identify other kinds of adapters.
OTHER_KINDS = {
    "hada_": "LoHa",
    "lokr_": "LoKr",
    "dora_scale": "DoRA",
    "lora_magnitude_vector": "DoRA",
    "lora_mid": "a LoCon with Tucker factors",
    "oft_": "OFT",
    ".diff.": "a full difference of weights",
    ".diff_b.": "a full difference of weights",
    "motion_modules": "a LoRA of AnimateDiff",
    "lora_controlnet": "a Control-LoRA",
}
# The same of models that have a UNet, and of those that have a transformer.
FOR_OTHER_MODELS = {
    "unet": {
        "lora_transformer": "a LoRA of a transformer model",
        "transformer.": "a LoRA of a transformer model",
        "double_blocks": "a LoRA of FLUX",
    },
    "transformer": {
        "down_blocks": "a LoRA of a UNet",
        "input_blocks": "a LoRA of a UNet",
        "lora_te": "a LoRA that changes a text encoder of a transformer model",
        "text_encoder": "a LoRA that changes a text encoder of a transformer model",
    },
}
DOWN, UP = "down", "up"
# A layer's two halves by the suffixes of their names, then the suffix of the layer's own name.
HALVES = (
    (".lora_down.weight", ".lora_up.weight"),
    (".lora_A.weight", ".lora_B.weight"),
    (".lora_A.default.weight", ".lora_B.default.weight"),
    (".lora.down.weight", ".lora.up.weight"),
    (".lora_linear_layer.down.weight", ".lora_linear_layer.up.weight"),
    (".down.weight", ".up.weight"),
)
ADAPTER_METADATA = "lora_adapter_metadata"


@dataclass(frozen=True)
class LoraLayer:
    """The change of one layer by a file: `up` · `down` · alpha / rank.

    Attributes:
        down, up: names of the tensors (rank, in[, kh, kw]) and (out, rank[, 1, 1]).
        rank: the rank of both.
        alpha: the name of the tensor that holds it, or the number itself; None if it equals the rank.
        rank_stabilised: whether the divisor is the square root of the rank (rsLoRA).
        outputs: the rows of `up` that belong to this layer, as start and end; None for all.
    """

    down: str
    up: str
    rank: int
    alpha: str | float | None = None
    rank_stabilised: bool = False
    outputs: tuple[int, int] | None = None


@dataclass(frozen=True)
class LoraHeader:
    """The layers that a file changes; the file fits the model."""

    layers: Mapping[Layer, LoraLayer]

    def rank(self, layer: Layer) -> int:
        """The file's rank at a layer; 0 if it does not change the layer."""
        return self.layers[layer].rank if layer in self.layers else 0


class LoraModel:
    """The layers of the model that files are for.

    Args:
        layers: the layers, with the shapes of their weights.
        title: the usual name of this kind of model.
    """

    def __init__(self, layers: Layers, title: str):
        self.layers = layers
        self.title = title
        single = {name: (layer,) for name, layer in layer_names(layers).items()}
        self.names: Mapping[str, tuple[Layer, ...]] = single | joined_names(layers)

    @property
    def denoiser(self) -> str:
        """The part whose layers a pass multiplies by: "unet" or "transformer"."""
        return next((part for part, _ in self.layers if part in DENOISERS), DENOISERS[0])

    @property
    def text_width(self) -> int | None:
        """The text width of its cross-attention."""
        return next((shape[1] for (_, name), shape in self.layers.items() if name.endswith("attn2.to_k")), None)


def lora_model(info: ModelInfo) -> LoraModel:
    """The layers of a model, from the headers of its weights."""
    found = {weights.part: read_headers(info.folder, weights) for weights in info.weights}
    shapes = {part: {name: tensor.shape for name, tensor in tensors.items()} for part, tensors in found.items()}
    return LoraModel(model_layers(shapes), info.title)


def read_lora_header(file: BinaryIO, size: int, path: str, model: LoraModel) -> LoraHeader:
    """Read which layers of a model a LoRA file changes.

    Args:
        file: the file, positioned at its start; only its header is read.
        size: the size of the whole file, in bytes.
        path: its name in messages.

    Raises:
        AdapterError: it is not a LoRA for this model; the message names the file, the layer and the reason.
    """
    try:
        tensors, metadata = read_tensors(file, size)
        return LoraHeader(_Reader(tensors, metadata, model).layers())
    except Refused as refused:
        raise AdapterError(f"{path}: {refused}") from refused


class _Reader:
    """Matches the tensors of one file with the layers of a model."""

    def __init__(self, tensors: Mapping[str, Tensor], metadata: Mapping[str, Any], model: LoraModel):
        self._tensors = tensors
        self._model = model
        self._configs = _adapter_configs(metadata)

    def layers(self) -> dict[Layer, LoraLayer]:
        self._refuse_other_kinds()
        left = set(self._tensors)
        found: dict[Layer, LoraLayer] = {}
        halves = [(name, *split) for name in self._tensors if (split := _split(name))]
        self._refuse_other_bases([(own, self._tensors[name].shape) for name, own, half, _ in halves if half == DOWN])
        for name, own, half, other in halves:
            if other not in self._tensors:
                raise Refused(f"layer {own}: {other} is missing")
            if half == UP:
                continue
            for layer, lora in self._layers(own, name, other):
                if layer in found:
                    raise Refused(f"layer {own}: appears twice, under two names")
                found[layer] = lora
            left -= {name, other, f"{own}.alpha"}
        if left:
            raise Refused(f"{min(left)} is not part of any kind of LoRA that sdbatch knows")
        if not found:
            raise Refused("contains no LoRA")
        return found

    def _layers(self, own: str, down: str, up: str) -> list[tuple[Layer, LoraLayer]]:
        """The layers that a pair of tensors changes: one, or several that the file names as one."""
        layers = self._model.names.get(own)
        if layers is None:
            raise Refused(f"layer {own}: {self._model.title} has no such layer, or a LoRA can't change it")
        first, second, weights = self._tensors[down], self._tensors[up], [self._model.layers[one] for one in layers]
        weight = (sum(shape[0] for shape in weights), *weights[0][1:])
        for tensor in (first, second):
            if tensor.dtype not in FLOATS:
                raise Refused(f"layer {own}: holds {tensor.dtype}; expected floating-point numbers")
        rank = first.shape[0] if first.shape else 0
        if len(second.shape) < 2 or second.shape[1] != rank or not 1 <= rank <= MAX_RANK:
            ranks = f"{rank} and {second.shape[1] if len(second.shape) > 1 else 0}"
            raise Refused(f"layer {own}: has the ranks {ranks}; expected two equal ranks from 1 to {MAX_RANK}")
        if not _fits(first.shape[1:], second.shape, weight):
            shapes = f"{_shown(first.shape)} and {_shown(second.shape)}"
            raise Refused(f"layer {own}: {shapes} do not fit the layer, which is {_shown(weight)}")
        if len(layers) == 1:
            return [(layers[0], LoraLayer(down, up, rank, *self._alpha(own, layers[0])))]
        ends = list(accumulate(shape[0] for shape in weights))
        parts = zip(layers, [0, *ends], ends, strict=False)
        return [
            (layer, LoraLayer(down, up, rank, *self._alpha(own, layer), outputs=(start, end)))
            for layer, start, end in parts
        ]

    def _alpha(self, own: str, layer: Layer) -> tuple[str | float | None, bool]:
        """A layer's alpha: the file's tensor, otherwise the value in its metadata."""
        name = f"{own}.alpha"
        if name in self._tensors:
            if math.prod(self._tensors[name].shape) != 1:
                raise Refused(f"layer {own}: its alpha is not a single number")
            return name, False
        config = self._configs.get(layer[0])
        return (None, False) if config is None else (config.alpha(layer[1]), config.rank_stabilised)

    def _refuse_other_kinds(self) -> None:
        kinds = OTHER_KINDS | FOR_OTHER_MODELS[self._model.denoiser]
        for name in self._tensors:
            for mark, kind in kinds.items():
                if mark in f"{name}.":
                    raise Refused(f"is {kind} ({name}), which sdbatch does not support")

    def _refuse_other_bases(self, downs: list[tuple[str, tuple[int, ...]]]) -> None:
        """Reject a file made for another generation, which would otherwise fail with the name of some layer."""
        cross_attention = re.compile(r".*attn2[._](processor[._])?to_[kv](_lora)?")
        widths = {shape[1] for own, shape in downs if len(shape) > 1 and cross_attention.fullmatch(own)}
        own_width = self._model.text_width
        if own_width is not None and (other := widths - {own_width}):
            made_for, ours = (BASES.get(width, f"a model with text width {width}") for width in (max(other), own_width))
            raise Refused(f"is for {made_for}; this model is {ours}")


def _split(name: str) -> tuple[str, str, str] | None:
    """A tensor's layer, which half of the layer it is, and the name of the other half."""
    for down, up in HALVES:
        if name.endswith(down):
            return name.removesuffix(down), DOWN, name.removesuffix(down) + up
        if name.endswith(up):
            return name.removesuffix(up), UP, name.removesuffix(up) + down
    return None


def _fits(inputs: tuple[int, ...], up: tuple[int, ...], weight: tuple[int, ...]) -> bool:
    """Whether factors fit a weight; those of a linear layer may be written as a 1×1 convolution."""
    if up[0] != weight[0] or math.prod(up[2:]) != 1 or not inputs or inputs[0] != weight[1]:
        return False
    kernel = weight[2:] or (1, 1)
    return (inputs[1:] or (1, 1)) == kernel


def _shown(shape: tuple[int, ...]) -> str:
    return " × ".join(map(str, shape))


@dataclass(frozen=True)
class _AdapterConfig:
    """The configuration of a peft adapter, which diffusers writes into a file's metadata."""

    default: float | None
    pattern: Mapping[str, float]
    rank_stabilised: bool

    def alpha(self, layer: str) -> float | None:
        """peft's rule: the first pattern that the layer's name ends with, otherwise the default."""
        for key, alpha in self.pattern.items():
            exact, key = key.startswith("^"), key.removeprefix("^").removeprefix("text_model.")
            if layer == key or (not exact and layer.endswith(f".{key}")):
                return alpha
        return self.default


def _adapter_configs(metadata: Mapping[str, Any]) -> dict[str, _AdapterConfig]:
    """The adapter configurations by part of the model: only the scaling; the rest follows from the tensors."""
    try:
        entries = json.loads(metadata[ADAPTER_METADATA]) if ADAPTER_METADATA in metadata else {}
    except (TypeError, ValueError, RecursionError) as error:
        raise Refused(f"its {ADAPTER_METADATA} is not JSON") from error
    if not isinstance(entries, dict):
        raise Refused(f"its {ADAPTER_METADATA} is not an object")
    found = {}
    for part in (*DENOISERS, "text_encoder", "text_encoder_2"):
        config = {key.removeprefix(f"{part}."): value for key, value in entries.items() if key.startswith(f"{part}.")}
        if config.get("use_dora"):
            raise Refused("is DoRA, which sdbatch does not support")
        default, pattern = config.get("lora_alpha"), config.get("alpha_pattern") or {}
        if default is None and not pattern:
            continue
        if not isinstance(pattern, dict) or not all(_is_finite(n) for n in pattern.values()) or not _is_finite(default):
            raise Refused(f"its {ADAPTER_METADATA} has alphas that are not numbers")
        if any(re.search(r"[\\*+?()\[\]{}|$]", key) for key in pattern):
            raise Refused(f"its {ADAPTER_METADATA} has an alpha_pattern with regular expressions; expected names")
        found[part] = _AdapterConfig(default, pattern, bool(config.get("use_rslora")))
    return found


def _is_finite(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and -LARGEST <= value <= LARGEST
