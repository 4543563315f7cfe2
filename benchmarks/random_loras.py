"""LoRA files of random numbers for a UNet, in peft's names as diffusers writes them."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path

import torch
from diffusers import UNet2DConditionModel
from safetensors.torch import save_file

__all__ = ["ATTENTION", "KOHYA_DEFAULT", "lora_file"]

ATTENTION = ("to_q", "to_k", "to_v", "to_out.0")
# What kohya's scripts train unless told otherwise: all linear and 1×1 layers of the transformer blocks.
KOHYA_DEFAULT = (*ATTENTION, "ff.net.0.proj", "ff.net.2", "proj_in", "proj_out")


def lora_file(model: Path, targets: tuple[str, ...], *, rank: int, seed: int) -> Path:
    """Make a file for the layers whose names end in one of `targets`; its alpha is its rank.

    Args:
        model: folder of the model.
    """
    with torch.device("meta"):
        unet = UNet2DConditionModel.from_config(json.loads((model / "unet/config.json").read_text()))
    generator = torch.Generator().manual_seed(seed)
    tensors: dict[str, torch.Tensor] = {}
    for name, layer in unet.named_modules():
        if not name.endswith(tuple(f".{target}" for target in targets)):
            continue
        out, into, *kernel = layer.weight.shape
        down = torch.randn(rank, into, *kernel, generator=generator) * (layer.weight[0].numel()) ** -0.5
        up = torch.randn(out, rank, *(1 for _ in kernel), generator=generator) * 0.1 * rank**-0.5
        tensors |= {f"unet.{name}.lora_A.weight": down, f"unet.{name}.lora_B.weight": up}
    path = Path(tempfile.mkdtemp(prefix="sdbatch-lora-")) / f"{seed}.safetensors"
    save_file(tensors, path)
    return path
