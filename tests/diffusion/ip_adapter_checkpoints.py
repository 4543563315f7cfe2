"""Small IP-Adapters with random weights, in the published files' format, with the vision tower beside them."""

from __future__ import annotations

from pathlib import Path

import torch
from diffusers import UNet2DConditionModel
from diffusers.models.attention_processor import Attention
from safetensors.torch import save_file
from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection

HIDDEN, PROJECTED, SIDE = 32, 24, 32


def build_ip_adapters(folder: Path, model: Path) -> dict[str, Path]:
    """A plain and a plus adapter of the model's UNet."""
    torch.manual_seed(7)
    config = CLIPVisionConfig(
        hidden_size=HIDDEN,
        intermediate_size=64,
        projection_dim=PROJECTED,
        num_hidden_layers=3,
        num_attention_heads=4,
        image_size=SIDE,
        patch_size=8,
        initializer_factor=3.0,
    )
    CLIPVisionModelWithProjection(config).eval().save_pretrained(folder / "image_encoder")
    unet = UNet2DConditionModel.from_pretrained(model / "unet")
    layers = [m for m in unet.modules() if isinstance(m, Attention) and m.is_cross_attention]
    dim = unet.config.cross_attention_dim
    generator = torch.Generator().manual_seed(8)

    def random(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator) * 1.5 / shape[-1] ** 0.5

    paths = {}
    for kind, projection in {"plain": _plain(random, dim), "plus": _plus(random, dim)}.items():
        tensors = {f"image_proj.{name}": tensor for name, tensor in projection.items()}
        for i, layer in enumerate(layers):
            for of in ("to_k_ip", "to_v_ip"):
                tensors[f"ip_adapter.{2 * i + 1}.{of}.weight"] = random(layer.to_q.out_features, dim)
        paths[kind] = folder / f"{kind}.safetensors"
        save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, paths[kind])
    return paths


def _plain(random, dim: int) -> dict[str, torch.Tensor]:
    return {
        "proj.weight": random(4 * dim, PROJECTED),
        "proj.bias": random(4 * dim),
        "norm.weight": torch.ones(dim),
        "norm.bias": torch.zeros(dim),
    }


def _plus(random, dim: int) -> dict[str, torch.Tensor]:
    """Two layers of the resampler, with one head of 64."""
    inner = 64
    found = {
        "latents": random(1, 16, inner),
        "proj_in.weight": random(inner, HIDDEN),
        "proj_in.bias": random(inner),
        "proj_out.weight": random(dim, inner),
        "proj_out.bias": random(dim),
        "norm_out.weight": torch.ones(dim),
        "norm_out.bias": torch.zeros(dim),
    }
    for i in range(4):
        found |= {
            f"layers.{i}.0.norm1.weight": torch.ones(inner),
            f"layers.{i}.0.norm1.bias": torch.zeros(inner),
            f"layers.{i}.0.norm2.weight": torch.ones(inner),
            f"layers.{i}.0.norm2.bias": torch.zeros(inner),
            f"layers.{i}.0.to_q.weight": random(inner, inner),
            f"layers.{i}.0.to_kv.weight": random(2 * inner, inner),
            f"layers.{i}.0.to_out.weight": random(inner, inner),
            f"layers.{i}.1.0.weight": torch.ones(inner),
            f"layers.{i}.1.0.bias": torch.zeros(inner),
            f"layers.{i}.1.1.weight": random(4 * inner, inner),
            f"layers.{i}.1.3.weight": random(inner, 4 * inner),
        }
    return found
