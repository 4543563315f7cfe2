"""A UNet's weights in eight bits: half the memory of half precision, a quarter of single. Changes the picture.

Only what is kept is smaller. A layer's weights are multiplied out when it runs, once for all lanes, so it costs
little where there are many, and saves no products.
"""

from __future__ import annotations

import torch
from diffusers.models.attention_processor import Attention
from torch.nn.utils.parametrize import register_parametrization

__all__ = ["quantize_int8"]

LARGEST_INT8 = 127


@torch.no_grad()
def quantize_int8(unet: torch.nn.Module) -> None:
    """Keep the weights of a UNet's linear and convolution layers as int8, scaled by output channel, symmetric.

    Its first and its last convolution stay as they are, as is the custom: little to save, much to lose. So do keys
    and values of texts, which `TextProjection` keeps and no pass multiplies.
    """
    left_out = {unet.conv_in, unet.conv_out}
    for layer in unet.modules():
        if isinstance(layer, Attention) and layer.is_cross_attention:
            left_out |= {layer.to_k, layer.to_v}
    for layer in list(unet.modules()):
        if isinstance(layer, torch.nn.Linear | torch.nn.Conv2d) and layer not in left_out:
            register_parametrization(layer, "weight", _Int8(), unsafe=True)


class _Int8(torch.nn.Module):
    """What stands between a layer and its weight: int8 and a scale are kept, floating point comes out."""

    def forward(self, kept: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
        return kept.to(scale.dtype) * scale

    def right_inverse(self, weight: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        largest = weight.abs().amax(dim=tuple(range(1, weight.ndim)), keepdim=True)
        # A channel of zeros has no scale of its own.
        scale = (largest / LARGEST_INT8).where(largest > 0, 1)
        return (weight / scale).round().to(torch.int8), scale
