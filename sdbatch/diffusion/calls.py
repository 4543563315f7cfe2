"""Counts a row's calls of the model, and a model's parameters, without loading it."""

from __future__ import annotations

import re
from dataclasses import replace
from functools import lru_cache
from typing import TYPE_CHECKING

from sdbatch.diffusion.adapters.control_rows import control_calls, controls_of
from sdbatch.diffusion.adapters.lora_names import DENOISERS
from sdbatch.diffusion.checkpoints.configs import Config, read_config
from sdbatch.diffusion.checkpoints.weights import Tensor
from sdbatch.diffusion.device.gpu_room import WeightBytes
from sdbatch.diffusion.families import family_named
from sdbatch.diffusion.guidance import guidance_scales, paired_calls
from sdbatch.diffusion.models.inspection import ModelInfo, headers
from sdbatch.diffusion.request import Request
from sdbatch.diffusion.samplers.call_counts import COMMON_FAMILIES, calls_per_step, known_calls
from sdbatch.diffusion.samplers.catalogue import resolve
from sdbatch.diffusion.tasks import task_of
from sdbatch.errors import PictureError

if TYPE_CHECKING:
    from sdbatch.diffusion.model_coefficients import ModelCoefficients

__all__ = ["count_parameters", "lane_calls", "needs_coefficients", "net_calls", "weight_bytes"]

# Bytes of a number by dtype.
BYTES_PER_PARAMETER = {"fp32": 4, "fp16": 2, "bf16": 2}
# The layers of a denoiser that are quantised: all of a UNet but the outer convolutions and the texts' keys and values;
# those in a transformer's lists of blocks. A family's engine half decides; this is close enough for an estimate.
QUANTISED_NAMES = {
    "unet": re.compile(r"(?!conv_in\.|conv_out\.|.*\.attn2\.to_[kv]\.).*\.weight"),
    "transformer": re.compile(r"\w+\.\d+\..*\.weight"),
}
# The numbers of inputs and outputs that fp8 accepts are multiples of this one.
FP8_WIDTHS = 16


def lane_calls(request: Request, info: ModelInfo, *, compiled: bool = True) -> int:
    """The number of a row's calls of the model, times the lanes of each.

    Second-order samplers make two calls per step; a call with guidance takes two lanes.

    Args:
        compiled: if only the row's coefficients show the number of calls, compile and keep it as an engine would, which
            takes up to seconds; otherwise only count.

    Raises:
        SamplerError: the model does not support the sampler, or, if `compiled`, not with this number of steps.
    """
    calls = _calls(request, info, compiled)
    return calls + paired_calls(guidance_scales(request, info, calls)) * (task_of(request).branches - 1)


def net_calls(request: Request, info: ModelInfo) -> int:
    """The number of a row's calls of ControlNets, times the lanes of each."""
    if not controls_of(request):
        return 0
    calls = _calls(request, info, compiled=False)
    return control_calls(request, calls, paired_calls(guidance_scales(request, info, calls)))


def _calls(request: Request, info: ModelInfo, compiled: bool) -> int:
    calls = _known_calls(request, info)
    if calls is None:
        coefficients, request = _coefficients(info), _sized(request, info)
        calls = coefficients.of_row(request).calls if compiled else coefficients.count_calls(request)
    return calls


def _sized(request: Request, info: ModelInfo) -> Request:
    """The row, with the model's size if its own follows from a picture not read yet: calls don't depend on it."""
    try:
        task_of(request).size(request, info)
    except PictureError:
        return replace(request, height=info.height, width=info.width)
    return request


def needs_coefficients(request: Request, info: ModelInfo) -> bool:
    """Whether only the row's coefficients show the number of calls, and whether the row can be run."""
    return _known_calls(request, info) is None


def _known_calls(request: Request, info: ModelInfo) -> int | None:
    if info.family not in COMMON_FAMILIES:
        return None
    sampler, run = resolve(request.sampler), task_of(request).run(request, info)
    if run.schedule or run.left_out >= run.steps:
        return None
    calls = known_calls(sampler, run.steps, _scheduler_config(info))
    return None if calls is None else calls - run.left_out * calls_per_step(sampler)


@lru_cache
def _coefficients(info: ModelInfo) -> ModelCoefficients:
    # It imports diffusers, which most plans do not need.
    from sdbatch.diffusion.model_coefficients import ModelCoefficients

    return ModelCoefficients.of(info)


@lru_cache
def _scheduler_config(info: ModelInfo) -> Config:
    return read_config(info.folder / "scheduler" / "scheduler_config.json")


def count_parameters(info: ModelInfo) -> int:
    """The number of parameters in the model's weight files, from their headers."""
    return sum(tensor.numbers for tensors in headers(info).values() for tensor in tensors.values())


def weight_bytes(info: ModelInfo, dtype: str, quantization: str = "none") -> WeightBytes:
    """The memory that the model's weights take, by what needs them, estimated from the headers of its files.

    Args:
        quantization: as in `Engine`.
    """
    sorts = {part.name: part.sort for part in family_named(info.family).parts}
    found = {"text_encoders": 0, "denoiser": 0, "others": 0}
    for name, tensors in headers(info).items():
        group = "denoiser" if name in DENOISERS else "others"
        group = "text_encoders" if sorts.get(name) == "text_encoder" else group
        found[group] += BYTES_PER_PARAMETER[dtype] * sum(tensor.numbers for tensor in tensors.values())
        if name in DENOISERS and quantization != "none":
            eight = (tensor for key, tensor in tensors.items() if _is_quantised(name, key, tensor, quantization))
            found[group] -= (BYTES_PER_PARAMETER[dtype] - 1) * sum(tensor.numbers for tensor in eight)
    return WeightBytes(**found)


def _is_quantised(part: str, name: str, tensor: Tensor, quantization: str) -> bool:
    if not QUANTISED_NAMES[part].fullmatch(name):
        return False
    if quantization == "fp8":
        return len(tensor.shape) == 2 and not any(width % FP8_WIDTHS for width in tensor.shape)
    return len(tensor.shape) in (2, 4)
