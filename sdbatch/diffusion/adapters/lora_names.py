"""The names of a model's layers in LoRA files: those of diffusers and peft, of kohya, of sgm, and of ComfyUI.

All names of a layer follow from its own name, so they are generated here and looked up, never parsed.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping

from sdbatch.diffusion.adapters.flux_lora_names import flux_lora_names

__all__ = ["DENOISERS", "Layer", "Layers", "joined_names", "layer_names", "model_layers"]

Layer = tuple[str, str]
"""A part of the model ("unet", "transformer", "text_encoder", …) and a layer's name in it, without "text_model."."""
Layers = Mapping[Layer, tuple[int, ...]]
"""The shapes of the weights of all layers that a LoRA may change."""

# Weights that are looked up, not multiplied; and DeepFloyd's text pooling, computed once per text.
NO_LAYERS = re.compile(r"(.*\.)?embeddings\..*|class_embedding\..*|add_embedding\.(?!linear_).*")
KOHYA = {
    "unet": ("lora_unet_",),
    "transformer": ("lora_unet_", "lora_transformer_"),
    "text_encoder": ("lora_te_", "lora_te1_"),
    "text_encoder_2": ("lora_te2_",),
}
DENOISERS = ("unet", "transformer")
SGM_IN_RESNETS = {
    "conv1": "in_layers.2",
    "conv2": "out_layers.3",
    "time_emb_proj": "emb_layers.1",
    "conv_shortcut": "skip_connection",
}
SGM_OUTSIDE = {
    "conv_in": "input_blocks.0.0",
    "conv_out": "out.2",
    "time_embedding.linear_1": "time_embed.0",
    "time_embedding.linear_2": "time_embed.2",
    "add_embedding.linear_1": "label_emb.0.0",
    "add_embedding.linear_2": "label_emb.0.2",
}
SGM_IN_THE_MIDDLE = {"resnets.0": 0, "attentions.0": 1, "resnets.1": 2}


def model_layers(shapes: Mapping[str, Mapping[str, tuple[int, ...]]]) -> Layers:
    """The linear and convolution layers of a model; for one with a transformer, only those of the transformer.

    Args:
        shapes: the tensors' shapes in the weights of each part.
    """
    return {
        (part, name.removesuffix(".weight").removeprefix("text_model.")): shape
        for part, tensors in shapes.items()
        if part in ({"transformer"} & shapes.keys() or KOHYA)
        for name, shape in tensors.items()
        if name.endswith(".weight") and len(shape) in (2, 4) and not NO_LAYERS.fullmatch(name)
    }


def layer_names(layers: Layers) -> dict[str, Layer]:
    """All names of a layer in LoRA files."""
    blocks = _blocks(layers)
    found: dict[str, Layer] = {}
    for layer in layers:
        found |= dict.fromkeys(_names(layer, blocks), layer)
    return found


def joined_names(layers: Layers) -> dict[str, tuple[Layer, ...]]:
    """Names that a file may have for several layers that it stores as one, with their outputs concatenated."""
    own = [name for part, name in layers if part == "transformer"]
    return {name: tuple(("transformer", part) for part in parts) for name, parts in flux_lora_names(own).items()}


def _names(layer: Layer, blocks: Mapping[str, int]) -> Iterator[str]:
    part, name = layer
    own = [name] if part in DENOISERS else [name, f"text_model.{name}"]
    for one in own:
        yield f"{part}.{one}"
        yield from (f"{prefix}{one.replace('.', '_')}" for prefix in KOHYA[part])
    if part in DENOISERS:
        yield name
        yield f"base_model.model.{name}"
    if part == "transformer":
        yield f"diffusion_model.{name}"
    if part == "unet":
        # In early diffusers, attention processors contained the layers.
        if re.search(r"attn\d\.to_(q|k|v|out\.0)$", name):
            block, _, projection = name.removesuffix(".0").rpartition(".")
            yield f"{block}.processor.{projection}_lora"
            yield f"unet.{block}.processor.{projection}_lora"
        if sgm := _sgm_name(name, blocks):
            yield f"lora_unet_{sgm.replace('.', '_')}"


def _blocks(layers: Layers) -> dict[str, int]:
    """The number of residual layers of each block ("down_blocks.0", …), and the up blocks that have attention."""
    found: dict[str, int] = {}
    for part, name in layers:
        if part == "unet" and (match := re.match(r"((?:down|up)_blocks\.\d+)\.(resnets|attentions)\.(\d+)\.", name)):
            block, kind, number = match.groups()
            key = block if kind == "resnets" else f"{block}.attentions"
            found[key] = max(found.get(key, 0), int(number) + 1)
    return found


def _sgm_name(name: str, blocks: Mapping[str, int]) -> str | None:
    """The name of a UNet layer in Stability's own code, which kohya uses for Stable Diffusion XL."""
    if name in SGM_OUTSIDE:
        return SGM_OUTSIDE[name]
    if match := re.match(r"mid_block\.((?:resnets|attentions)\.\d+)\.(.+)", name):
        place = SGM_IN_THE_MIDDLE.get(match[1])
        return None if place is None else f"middle_block.{place}.{SGM_IN_RESNETS.get(match[2], match[2])}"
    match = re.match(r"(down|up)_blocks\.(\d+)\.(resnets|attentions|downsamplers|upsamplers)\.(\d+)\.(.+)", name)
    if match is None:
        return None
    way, block, kind, number, rest = match[1], int(match[2]), match[3], int(match[4]), match[5]
    before = sum(blocks.get(f"{way}_blocks.{i}", 0) + (way == "down") for i in range(block))
    if kind == "downsamplers":
        return f"input_blocks.{before + blocks.get(f'down_blocks.{block}', 0) + 1}.0.op"
    if kind == "upsamplers":
        last = before + blocks.get(f"up_blocks.{block}", 0) - 1
        return f"output_blocks.{last}.{2 if f'up_blocks.{block}.attentions' in blocks else 1}.conv"
    place = before + number + (way == "down")
    column = 1 if kind == "attentions" else 0
    return f"{'input' if way == 'down' else 'output'}_blocks.{place}.{column}.{SGM_IN_RESNETS.get(rest, rest)}"
