"""Asynchronous copies between the host and a device."""

from __future__ import annotations

import torch

__all__ = ["receive", "send"]


def send(tensor: torch.Tensor, device: torch.device) -> torch.Tensor:
    """Copy a host tensor to the device; on CUDA through pinned memory, in the order of the current stream."""
    if device.type == "cpu":
        return tensor
    return tensor.pin_memory().to(device, non_blocking=True)


def receive(tensor: torch.Tensor) -> torch.Tensor:
    """Copy a CUDA tensor to pinned memory; complete when the current stream has reached this point."""
    host = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True)
    return host.copy_(tensor, non_blocking=True)
