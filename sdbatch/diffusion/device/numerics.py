"""Fixes a GPU's rounding for the whole process, so that no picture depends on a default, a timing or another engine.

A CPU has none of these switches.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

__all__ = ["describe_numerics", "pin_numerics", "tf32_convolutions"]

# The first cuDNN whose attention torch itself prefers. Older ones were wrong, or slow, for lengths such as a text's 77.
CUDNN_ATTENTION_SINCE = 91500


def pin_numerics(device: torch.device) -> None:
    """Make CUDA round equally in every process, and float32 mean IEEE float32."""
    if device.type != "cuda":
        return
    torch.backends.cudnn.benchmark = False  # picks algorithms by timing, and they round differently
    torch.backends.cudnn.deterministic = True
    torch.backends.cudnn.allow_tf32 = False  # on by default
    torch.backends.cuda.matmul.allow_tf32 = False
    torch.backends.cuda.matmul.allow_fp16_reduced_precision_reduction = False
    torch.backends.cuda.matmul.allow_bf16_reduced_precision_reduction = False
    torch.backends.cuda.enable_cudnn_sdp((torch.backends.cudnn.version() or 0) >= CUDNN_ATTENTION_SINCE)


@contextmanager
def tf32_convolutions(allowed: bool) -> Iterator[None]:
    """Let float32 convolutions in the block use TF32 (10 bits of mantissa), if `allowed`; no effect on a CPU."""
    if not allowed:
        yield
        return
    before = torch.backends.cudnn.allow_tf32
    torch.backends.cudnn.allow_tf32 = True
    try:
        yield
    finally:
        torch.backends.cudnn.allow_tf32 = before


def describe_numerics(device: torch.device, *, tf32_decoder: bool) -> dict[str, object] | None:
    """The current switches as JSON values; None on a CPU."""
    if device.type != "cuda":
        return None
    matmul = torch.backends.cuda.matmul
    return {
        "float32": "TF32 in the VAE's convolutions, IEEE elsewhere" if tf32_decoder else "IEEE",
        "reduced_precision_reduction": matmul.allow_fp16_reduced_precision_reduction
        or matmul.allow_bf16_reduced_precision_reduction,
        "cudnn_deterministic": torch.backends.cudnn.deterministic,
        "cudnn_benchmark": torch.backends.cudnn.benchmark,
        "cudnn_attention": torch.backends.cuda.cudnn_sdp_enabled(),
    }
