"""Computes at which calls of the model a row has guidance, and how long it needs an unconditional lane."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from sdbatch.diffusion.checkpoints.model_info import ModelInfo
from sdbatch.diffusion.families import family_named
from sdbatch.diffusion.request import Request
from sdbatch.diffusion.tasks import task_of

if TYPE_CHECKING:
    import torch

__all__ = ["guidance_scales", "is_guided", "paired_calls", "rescale"]


def is_guided(request: Request, info: ModelInfo) -> bool:
    """Whether the row has guidance by a second, unconditional output of the denoiser."""
    return _scale(request, info) != 1


def guidance_scales(request: Request, info: ModelInfo, calls: int) -> tuple[float, ...]:
    """The guidance scale of each of `calls` calls; 1 where guidance is off.

    The bounds of an interval are rounded down to calls, as diffusers' `ClassifierFreeGuidance` does.
    """
    scale = _scale(request, info)
    if scale == 1:
        return (1.0,) * calls
    on = range(int(request.guidance_start * calls), int(request.guidance_stop * calls))
    return tuple(scale if call in on else 1.0 for call in range(calls))


def paired_calls(scales: Sequence[float]) -> int:
    """Calls from the first on for which a row needs two lanes: up to the last one with guidance."""
    return max((call + 1 for call, scale in enumerate(scales) if scale != 1), default=0)


def rescale(guided: torch.Tensor, conditional: torch.Tensor, factor: torch.Tensor) -> torch.Tensor:
    """Rescale guided outputs towards the standard deviation of the conditional ones (Lin et al. 2023).

    A factor of 0 leaves a lane unchanged, to the bit.
    """
    lanes = guided.shape[0]
    std_conditional = conditional.reshape(lanes, -1).std(dim=1).view(-1, 1, 1, 1)
    std_guided = guided.reshape(lanes, -1).std(dim=1).view(-1, 1, 1, 1)
    rescaled = factor * (guided * (std_conditional / std_guided)) + (1 - factor) * guided
    return guided.where(factor == 0, rescaled)


def _scale(request: Request, info: ModelInfo) -> float:
    return family_named(info.family).guidance(request, info) if task_of(request).is_guided(request, info) else 1.0
