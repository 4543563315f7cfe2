"""A model's weights in eight bits: half the memory of half precision, a quarter of single. Changes the picture.

Only the stored weights are smaller. A layer's weights are dequantised when it runs, once for all lanes, so it costs
little with many lanes, and is not faster.
"""

from __future__ import annotations

import torch
from torch.nn.utils.parametrize import register_parametrization

__all__ = ["quantize_int8"]

LARGEST_INT8 = 127


@torch.no_grad()
def quantize_int8(denoiser: torch.nn.Module, left_out: set[torch.nn.Module]) -> None:
    """Keep the weights of a model's linear and convolution layers as int8, scaled by output channel, symmetric.

    Args:
        left_out: layers that stay unchanged.
    """
    for layer in list(denoiser.modules()):
        if isinstance(layer, torch.nn.Linear | torch.nn.Conv2d) and layer not in left_out:
            register_parametrization(layer, "weight", _Int8(), unsafe=True)


class _Int8(torch.nn.Module):
    """The parametrisation of a weight: stores int8 and a scale, returns floating point."""

    def forward(self, kept: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
        return kept.to(scale.dtype) * scale

    def right_inverse(self, weight: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        largest = weight.abs().amax(dim=tuple(range(1, weight.ndim)), keepdim=True)
        # A channel of zeros would have a scale of 0.
        scale = (largest / LARGEST_INT8).where(largest > 0, 1)
        return (weight / scale).round().to(torch.int8), scale
