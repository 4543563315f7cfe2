"""Whether a request can be run on a model, told before any model is loaded."""

from __future__ import annotations

import math
import operator

from sdbatch.diffusion.models import ModelInfo
from sdbatch.diffusion.request import Request
from sdbatch.diffusion.samplers import resolve
from sdbatch.errors import SamplerError

__all__ = ["validate"]

# Attention grows with the square of the area: one row of such a size would hold up everything else for hours.
MOST_AREA_FACTOR = 16
MOST_AREA_AT_LEAST = 1024 * 1024


def validate(request: Request, info: ModelInfo) -> str | None:
    """The reason why this request can not be run on this model, or None if it can."""
    if not isinstance(request, Request):
        return f"not a Request but a {type(request).__name__}"
    for check in (_texts, _seed, _sampler, _steps, _guidance, _size):
        reason = check(request, info)
        if reason:
            return reason
    return None


def _texts(request: Request, info: ModelInfo) -> str | None:
    if not isinstance(request.prompt, str) or not request.prompt.strip():
        return "the prompt is empty"
    if not isinstance(request.negative_prompt, str):
        return f"negative_prompt must be text, not {request.negative_prompt!r}"
    for name, text in (("prompt", request.prompt), ("negative_prompt", request.negative_prompt)):
        if any("\ud800" <= character <= "\udfff" for character in text):
            return f"the {name} is not valid Unicode (a lone surrogate)"
    return None


def _seed(request: Request, info: ModelInfo) -> str | None:
    seed = _integer(request.seed)
    if seed is None:
        return f"seed must be an integer, not {request.seed!r}"
    if not 0 <= seed < 2**63:
        return f"seed {seed} is not between 0 and 2**63 - 1"
    return None


def _sampler(request: Request, info: ModelInfo) -> str | None:
    try:
        resolve(request.sampler)
    except SamplerError as error:
        return str(error)
    return None


def _steps(request: Request, info: ModelInfo) -> str | None:
    steps = _integer(request.steps)
    if steps is None:
        return f"steps must be an integer, not {request.steps!r}"
    if steps < 1:
        return f"steps must be at least 1, not {steps}"
    sampler = resolve(request.sampler)
    most = info.distilled_steps if sampler in ("lcm", "tcd") else info.num_train_timesteps
    if steps > most:
        return f"{steps} steps are more than the {most} that {sampler} has on this model"
    return None


def _guidance(request: Request, info: ModelInfo) -> str | None:
    for name in ("guidance_scale", "guidance_rescale", "guidance_start", "guidance_stop"):
        value = getattr(request, name)
        try:
            finite = math.isfinite(value)
        except TypeError:
            return f"{name} must be a number, not {value!r}"
        except OverflowError:
            finite = False
        if not finite:
            return f"{name} must be finite, not {value!r}"
    if not 0 <= request.guidance_start < request.guidance_stop <= 1:
        interval = f"{request.guidance_start} to {request.guidance_stop}"
        return f"guidance_start must be less than guidance_stop, both from 0 to 1, not {interval}"
    return None


def _size(request: Request, info: ModelInfo) -> str | None:
    height = info.height if request.height is None else _integer(request.height)
    width = info.width if request.width is None else _integer(request.width)
    for name, pixels, given in (("height", height, request.height), ("width", width, request.width)):
        if pixels is None:
            return f"{name} must be an integer, not {given!r}"
        if pixels < info.size_multiple:
            return f"{name} must be at least {info.size_multiple}, not {pixels}"
        if pixels % info.size_multiple:
            return f"{name} must be a multiple of {info.size_multiple}, not {pixels}"
    most = max(MOST_AREA_FACTOR * info.height * info.width, MOST_AREA_AT_LEAST)
    if height * width > most:
        return f"{height}x{width} is too large: this model takes at most {most:,} pixels"
    return None


def _integer(value) -> int | None:
    if isinstance(value, bool):
        return None
    try:
        return operator.index(value)
    except TypeError:
        return None
