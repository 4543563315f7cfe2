"""Kohya's names for the layers of FLUX.1 and Chroma: those of FLUX.1's own code, which joins some layers.

As in `_convert_kohya_flux_lora_to_diffusers` of diffusers. Layers outside the blocks are left out: kohya's scripts do
not train them by default, and diffusers loses them or their alphas.
"""

from __future__ import annotations

import re
from collections.abc import Collection

__all__ = ["flux_lora_names"]

# What only FLUX.1 and Chroma have.
OWN_LAYERS = "transformer_blocks.0.attn.add_q_proj", "single_transformer_blocks.0.proj_mlp"
DOUBLE = {
    "img_attn_qkv": ("attn.to_q", "attn.to_k", "attn.to_v"),
    "img_attn_proj": ("attn.to_out.0",),
    "img_mlp_0": ("ff.net.0.proj",),
    "img_mlp_2": ("ff.net.2",),
    "img_mod_lin": ("norm1.linear",),
    "txt_attn_qkv": ("attn.add_q_proj", "attn.add_k_proj", "attn.add_v_proj"),
    "txt_attn_proj": ("attn.to_add_out",),
    "txt_mlp_0": ("ff_context.net.0.proj",),
    "txt_mlp_2": ("ff_context.net.2",),
    "txt_mod_lin": ("norm1_context.linear",),
}
SINGLE = {
    "linear1": ("attn.to_q", "attn.to_k", "attn.to_v", "proj_mlp"),
    "linear2": ("proj_out",),
    "modulation_lin": ("norm.linear",),
}


def flux_lora_names(layers: Collection[str]) -> dict[str, tuple[str, ...]]:
    """The layers of each of kohya's names, in the order of its outputs; empty for another kind of model.

    Args:
        layers: those of the transformer.
    """
    if not all(own in layers for own in OWN_LAYERS):
        return {}
    found = {}
    for block in {match[0] for layer in layers if (match := re.match(r"(single_)?transformer_blocks\.\d+", layer))}:
        kind, own = ("single_blocks", SINGLE) if block.startswith("single_") else ("double_blocks", DOUBLE)
        number = block.rpartition(".")[2]
        for name, parts in own.items():
            found[f"lora_unet_{kind}_{number}_{name}"] = tuple(f"{block}.{part}" for part in parts)
    return {name: parts for name, parts in found.items() if all(part in layers for part in parts)}
