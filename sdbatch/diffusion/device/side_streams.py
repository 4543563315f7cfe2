"""CUDA streams beside the current one."""

from __future__ import annotations

from functools import cache

import torch

__all__ = ["side_stream"]


@cache
def side_stream(device: torch.device, purpose: str) -> torch.cuda.Stream:
    """The stream of a device for one purpose, the same one for the life of the process.

    torch keeps a workspace of cuBLAS, 8 to 32 MiB, for every stream on which a matrix was ever multiplied, and each new
    `torch.cuda.Stream` is the next one of 32.
    """
    return torch.cuda.Stream(device)
