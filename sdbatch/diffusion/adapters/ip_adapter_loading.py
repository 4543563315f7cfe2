"""Loads IP-Adapters."""

from __future__ import annotations

from pathlib import Path

import torch
from diffusers.models.attention_processor import Attention
from safetensors.torch import load_file
from transformers import CLIPVisionModelWithProjection

from sdbatch.diffusion.adapters.ip_adapter_files import IpAdapterFile
from sdbatch.diffusion.adapters.ip_adapter_nets import IpAdapterNet
from sdbatch.diffusion.models.loading import load_network
from sdbatch.errors import AdapterError

__all__ = ["load_ip_adapter"]


def load_ip_adapter(found: IpAdapterFile, unet: torch.nn.Module) -> IpAdapterNet:
    """Load an adapter for a UNet.

    Raises:
        AdapterError: its layers are not the UNet's.
        ModelError: its encoder can't be read.
    """
    encoder = load_network(
        CLIPVisionModelWithProjection,
        found.encoder.parent,
        found.encoder_weights,
        unet.dtype,
        unet.device,
        of_transformers=True,
    )
    tensors = load_file(found.path)
    own = {key.removeprefix("image_proj."): t for key, t in tensors.items() if key.startswith("image_proj.")}
    projection = unet._convert_ip_adapter_image_proj_to_diffusers(own, low_cpu_mem_usage=False)
    projection = projection.to(unet.device, unet.dtype).eval().requires_grad_(False)
    weight = _keys_and_values(tensors, unet, found.path).to(unet.device, unet.dtype)
    return IpAdapterNet(encoder, projection, weight, found.is_plus)


def _keys_and_values(tensors: dict[str, torch.Tensor], unet: torch.nn.Module, path: Path) -> torch.Tensor:
    """Weights of all cross-attention layers, in order; files number them 1, 3, 5, … among all attention layers."""
    layers = [module for module in unet.modules() if isinstance(module, Attention) and module.is_cross_attention]
    found = []
    for i, layer in enumerate(layers):
        for of, linear in (("to_k_ip", layer.to_k), ("to_v_ip", layer.to_v)):
            name = f"ip_adapter.{2 * i + 1}.{of}.weight"
            if name not in tensors or tensors[name].shape[0] != linear.out_features:
                shape = list(tensors[name].shape) if name in tensors else "not there"
                raise AdapterError(f"{path}: {name} is {shape}; the UNet's layer has {linear.out_features} features")
            found.append(tensors[name])
    if (count := sum(name.endswith("_ip.weight") for name in tensors)) != len(found):
        raise AdapterError(f"{path}: has {count // 2} layers, but the UNet has {len(layers)}")
    return torch.cat(found)
