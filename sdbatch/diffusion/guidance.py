"""Where a row's guidance is on: at which of its calls of the model, and how long it has an unconditional lane."""

from __future__ import annotations

from collections.abc import Sequence

from sdbatch.diffusion.models import ModelInfo
from sdbatch.diffusion.request import Request

__all__ = ["guidance_scales", "is_guided", "paired_calls"]


def is_guided(request: Request, info: ModelInfo) -> bool:
    """Whether the row has guidance by a second, unconditional output of the UNet."""
    return request.guidance_scale > 1 and not info.guidance_embedded


def guidance_scales(request: Request, info: ModelInfo, calls: int) -> tuple[float, ...]:
    """The guidance scale of each of so many calls; 1 where guidance is off.

    The bounds of an interval are rounded down to calls, as diffusers' `ClassifierFreeGuidance` does.
    """
    if not is_guided(request, info):
        return (1.0,) * calls
    on = range(int(request.guidance_start * calls), int(request.guidance_stop * calls))
    return tuple(float(request.guidance_scale) if call in on else 1.0 for call in range(calls))


def paired_calls(scales: Sequence[float]) -> int:
    """Calls from the first on for which a row needs two lanes: up to the last one with guidance."""
    return max((call + 1 for call, scale in enumerate(scales) if scale != 1), default=0)
