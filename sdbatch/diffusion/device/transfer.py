"""Asynchronous copies between the host and a device."""

from __future__ import annotations

from collections.abc import Sequence

import torch

__all__ = ["receive", "send", "send_together"]


def send(tensor: torch.Tensor, device: torch.device) -> torch.Tensor:
    """Copy a host tensor to the device; on CUDA through pinned memory, in the order of the current stream."""
    if device.type == "cpu":
        return tensor
    return tensor.pin_memory().to(device, non_blocking=True)


def send_together(tensors: Sequence[torch.Tensor], device: torch.device) -> list[torch.Tensor]:
    """Copy host tensors of one dtype to the device, as views of a single copy."""
    if device.type == "cpu" or not tensors:
        return list(tensors)
    sent = send(torch.cat([tensor.flatten() for tensor in tensors]), device)
    parts = sent.split([tensor.numel() for tensor in tensors])
    return [part.view(tensor.shape) for part, tensor in zip(parts, tensors, strict=True)]


def receive(tensor: torch.Tensor) -> torch.Tensor:
    """Copy a CUDA tensor to pinned memory; complete when the current stream has reached this point."""
    host = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True)
    return host.copy_(tensor, non_blocking=True)
