"""A model's weights in eight bits: half the memory of half precision, a quarter of single. Changes the picture.

`int8` stores weights only: a layer's weights are dequantised when it runs, once for all lanes, so it costs little with
many lanes, and is not faster. `fp8` multiplies in eight bits as well, which GPUs do faster; it covers linear layers
only, because torch has no convolution in float8.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch.nn.utils.parametrize import register_parametrization

from sdbatch.diffusion.engine_choices import QUANTIZATIONS
from sdbatch.errors import UsageError

__all__ = ["QUANTIZERS", "check_quantization", "quantize_fp8", "quantize_int8", "why_no_fp8"]

LARGEST_INT8 = 127
FLOAT8 = torch.float8_e4m3fn
LARGEST_FLOAT8 = torch.finfo(FLOAT8).max
# A scale of 0 would divide by 0: a row or channel of zeros has this one.
SMALLEST_SCALE = 1e-12
# The widths that torch's product accepts are multiples of this number.
WIDTHS = 16
# Ada Lovelace; the first GPUs that multiply in float8.
FP8_CAPABILITY = (8, 9)


@torch.no_grad()
def quantize_int8(denoiser: torch.nn.Module, left_out: set[torch.nn.Module], device: torch.device) -> None:
    """Move a model to a device, the weights of its linear and convolution layers as int8.

    They are scaled by output channel, symmetric. Layers are moved and quantised one after the other, so the whole model
    never has to fit.

    Args:
        left_out: layers that stay unchanged.
    """
    for layer in list(denoiser.modules()):
        if isinstance(layer, torch.nn.Linear | torch.nn.Conv2d) and layer not in left_out:
            register_parametrization(layer.to(device), "weight", _Int8(), unsafe=True)
    denoiser.to(device)


class _Int8(torch.nn.Module):
    """The parametrisation of a weight: stores int8 and a scale, returns floating point."""

    def forward(self, kept: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
        return kept.to(scale.dtype) * scale

    def right_inverse(self, weight: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        # In float32: in half precision, 127 times the rounded scale can be so far below the largest weight that this
        # one becomes 128, which int8 takes for -128.
        wide = weight.float()
        scale = (wide.abs().amax(dim=tuple(range(1, weight.ndim)), keepdim=True) / LARGEST_INT8).to(weight.dtype)
        # That of a channel of zeros, or in half precision of nearly so, is 0.
        scale = scale.where(scale > 0, 1)
        return (wide / scale.float()).round().clamp(-LARGEST_INT8, LARGEST_INT8).to(torch.int8), scale


@torch.no_grad()
def quantize_fp8(denoiser: torch.nn.Module, left_out: set[torch.nn.Module], device: torch.device) -> None:
    """Move a model to a device, and have its linear layers multiply in float8 (e4m3), scaled by output channel.

    Layers whose numbers of inputs and outputs are not multiples of 16 stay unchanged. As in `quantize_int8`, one layer
    is moved after the other.

    Args:
        left_out: layers that stay unchanged, too.
    """
    for layer in list(denoiser.modules()):
        if isinstance(layer, torch.nn.Linear) and layer not in left_out:
            outputs, inputs = layer.weight.shape
            if outputs % WIDTHS == inputs % WIDTHS == 0:
                _to_fp8(layer.to(device))
    denoiser.to(device)


def _to_fp8(layer: torch.nn.Linear) -> None:
    kept, scale = _scaled(layer.weight)
    # Nothing may read a weight of eight bits by the name of the whole one.
    del layer.weight
    layer.kept = torch.nn.Parameter(kept, requires_grad=False)
    layer.scale = torch.nn.Parameter(scale.t().contiguous(), requires_grad=False)
    # Changes the class in place, so that references to the layer and its name stay valid.
    layer.__class__ = Float8Linear


class Float8Linear(torch.nn.Linear):
    """A linear layer whose product is of float8 numbers.

    Every row of the input, which is one token, has a scale of its own. So a lane's result depends on no other lane, as
    it would with one scale for the whole input.

    Attributes:
        kept: float8 (out, in).
        scale: float32 (1, out); the weights are `kept` times it.
    """

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        # On a GPU the numbers of a row must be side by side.
        rows, scale = _scaled(x.reshape(-1, self.in_features).contiguous())
        by_row = F.ScalingType.RowWise
        # torch's kernels for GPUs have bfloat16 results in every release that has them at all.
        made = F.scaled_mm(rows, self.kept.t(), scale, by_row, self.scale, by_row, output_dtype=torch.bfloat16)
        made = made.to(x.dtype).view(*x.shape[:-1], self.out_features)
        return made if self.bias is None else made.add_(self.bias)


def _scaled(rows: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Float8 numbers (N, in) and float32 factors (N, 1) whose product is about `rows`; a row's largest becomes 448."""
    largest = rows.abs().amax(dim=1, keepdim=True).float()
    scale = (largest / LARGEST_FLOAT8).clamp(min=SMALLEST_SCALE)
    return (rows / scale).to(FLOAT8), scale


def _check_fp8(device: torch.device) -> None:
    capability = torch.cuda.get_device_capability(device) if device.type == "cuda" else None
    if reason := why_no_fp8(str(torch.__version__), capability):
        raise UsageError(reason)
    layer = torch.nn.Linear(WIDTHS, WIDTHS, device=device).requires_grad_(False)
    _to_fp8(layer)
    try:
        layer(torch.ones(WIDTHS, WIDTHS, device=device))
    except (RuntimeError, ValueError) as error:  # such as a build of torch without the kernel
        reason = str(error).splitlines()[0]
        raise UsageError(f"quantization 'fp8' does not work with this torch on {device}: {reason}") from error


def why_no_fp8(torch_version: str, capability: tuple[int, int] | None) -> str | None:
    """Why fp8 does not work here, or None.

    Args:
        capability: the compute capability of the GPU; None on a CPU.
    """
    if not hasattr(F, "scaled_mm"):
        return f"quantization 'fp8' needs torch 2.10 or newer; this is {torch_version}"
    if capability is not None and capability < FP8_CAPABILITY:
        needed, found = (".".join(map(str, pair)) for pair in (FP8_CAPABILITY, capability))
        return f"quantization 'fp8' needs a GPU of compute capability {needed} or newer; this one has {found}: use int8"
    return None


QUANTIZERS: dict[str, Callable[[torch.nn.Module, set[torch.nn.Module], torch.device], None]] = {
    "int8": quantize_int8,
    "fp8": quantize_fp8,
}


def check_quantization(name: str, device: torch.device) -> None:
    """Refuse a kind of quantisation that is unknown, or that the device can't run.

    Raises:
        UsageError: it is unknown, or needs another GPU or torch.
    """
    if name not in QUANTIZATIONS:
        raise UsageError(f"quantization {name!r}: expected one of {', '.join(QUANTIZATIONS)}")
    if name == "fp8":
        _check_fp8(device)
