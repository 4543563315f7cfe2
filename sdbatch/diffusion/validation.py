"""Checks whether a model can run a request, before the model is loaded."""

from __future__ import annotations

import math
import operator
from functools import lru_cache
from typing import Any

from sdbatch import kinds
from sdbatch.diffusion.adapters.lora_rows import Loras
from sdbatch.diffusion.checkpoints.model_info import FLOW, ModelInfo
from sdbatch.diffusion.families import family_named
from sdbatch.diffusion.families.declaration import UNGUIDED
from sdbatch.diffusion.pictures.picture import Picture
from sdbatch.diffusion.request import COMMON, ROW_FIELDS, Request
from sdbatch.diffusion.row_fields import fields_of
from sdbatch.diffusion.samplers.catalogue import EVERY_SAMPLER, resolve
from sdbatch.diffusion.tasks import ENGINE_TASKS, TASKS, task_of
from sdbatch.errors import SamplerError, UsageError
from sdbatch.fields import Field
from sdbatch.option_kinds import Sizes

__all__ = ["check_area", "check_compile_sizes", "validate"]

# The common settings that some families do not use. The guidance scale is no error: every request has one.
OPTIONAL = [field.name for field in ROW_FIELDS if field.name not in UNGUIDED | {"guidance_scale"}]
# Attention grows with the square of the area: one row of such a size would hold up everything else for hours.
MAX_AREA_FACTOR = 16
MAX_AREA_FLOOR = 1024 * 1024
WITHOUT_ADD_NOISE = ("IPNDMScheduler",)
# Pipelines of models for flow matching call `scale_noise`, which only schedulers of these names have.
WITH_SCALE_NOISE = "FlowMatch"


def validate(request: Request, info: ModelInfo) -> str | None:
    """The reason why this model cannot run this request, or None if it can."""
    if not isinstance(request, Request):
        return f"not a Request but a {type(request).__name__}"
    for check in (_texts, _seed, _sampler, _steps, _guidance, _size, _unused, _task):
        reason = check(request, info)
        if reason:
            return reason
    family = family_named(info.family)
    return family.refusal(request, info) or family.refused_texts(request)


def _texts(request: Request, info: ModelInfo) -> str | None:
    needs_words = getattr(ENGINE_TASKS.get(request.task), "needs_prompt", True)
    if not isinstance(request.prompt, str) or (needs_words and not request.prompt.strip()):
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
    if not 0 <= seed < 2**64:
        return f"seed {seed} is not between 0 and 2**64 - 1"
    return None


def _sampler(request: Request, info: ModelInfo) -> str | None:
    try:
        sampler = resolve(request.sampler, info.samplers)
    except SamplerError as error:
        return str(error)
    if sampler not in info.samplers:
        return f"sampler {sampler} does not work with {info.title}, which has: {', '.join(info.samplers)}"
    return _scheduler(sampler, info) if info.scheduler_config else None


@lru_cache
def _scheduler(sampler: str, info: ModelInfo) -> str | None:
    # It imports diffusers, which most plans do not need.
    from sdbatch.diffusion.model_coefficients import ModelCoefficients

    return ModelCoefficients.of(info).refusal(sampler)


def _steps(request: Request, info: ModelInfo) -> str | None:
    steps = _integer(request.steps)
    if steps is None:
        return f"steps must be an integer, not {request.steps!r}"
    if steps < 1:
        return f"steps must be at least 1, not {steps}"
    sampler = resolve(request.sampler)
    max_steps = info.distilled_steps if sampler in ("lcm", "tcd") else info.num_train_timesteps
    if steps > max_steps:
        return f"{steps} steps are more than the {max_steps} that {sampler} has on this model"
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
    if height is None or width is None:
        name = "height" if height is None else "width"
        return f"{name} must be an integer, not {getattr(request, name)!r}"
    for name, pixels in (("height", height), ("width", width)):
        if pixels < info.size_multiple:
            return f"{name} must be at least {info.size_multiple}, not {pixels}"
        if pixels % info.size_multiple:
            return f"{name} must be a multiple of {info.size_multiple}, not {pixels}"
    return check_area(height, width, info)


def check_compile_sizes(sizes: str, info: ModelInfo) -> None:
    """Check that a model can make pictures of these sizes (`option_kinds.Sizes`). Raises `UsageError`."""
    for height, width in Sizes.sides(sizes):
        if reason := _size(Request("", height=height, width=width), info):
            raise UsageError(f"compile-sizes {width}x{height}: {reason}")


def check_area(height: int, width: int, info: ModelInfo) -> str | None:
    """The reason why pictures of this size are too large for the model, or None if they are not."""
    for name, pixels in (("height", height), ("width", width)):
        if info.max_side is not None and pixels > info.max_side:
            return f"{name} must be at most {info.max_side}, not {pixels}"
    max_area = max(MAX_AREA_FACTOR * info.height * info.width, MAX_AREA_FLOOR)
    if height * width > max_area:
        return f"{width}x{height} is too large: this model takes at most {max_area:,} pixels"
    return None


def _unused(request: Request, info: ModelInfo) -> str | None:
    """The reason for a setting that the family does not use."""
    plain = Request(prompt="")
    for name in OPTIONAL:
        if name not in info.uses and getattr(request, name) != getattr(plain, name):
            return f"{info.title} does not use {name}"
    return None


def _task(request: Request, info: ModelInfo) -> str | None:
    """Checks the task. Does not open pictures: a row with a bad one fails when it is admitted."""
    known = dict.fromkeys([*ENGINE_TASKS, *(task.name for task in TASKS)])
    if request.task not in known:
        return f"unknown task {request.task!r}; there are: {', '.join(known)}"
    reason = _extra(request, info)
    return _possible(request, info) if reason is None and request.task in ENGINE_TASKS else reason


def _extra(request: Request, info: ModelInfo) -> str | None:
    """Checks the settings that only this task or this family has."""
    if not request.extra:
        return None
    fields = {field.name: field for field in fields_of(request.task, info)}
    for name, value in request.extra.items():
        if name not in fields or name in COMMON:
            return f"{name} is not a setting of {request.task} with a model of the family {info.family}"
        if value is not None and (reason := _value(fields[name], value)):
            return reason
    return None


def _value(field: Field, value: Any) -> str | None:
    """The reason why a field can't have this value, or None."""
    if isinstance(value, Loras) or isinstance(field.kind, kinds.Pictures):
        return None  # its reader checks the value
    if isinstance(field.kind, kinds.Picture):
        return None if isinstance(value, Picture) else f"{field.name} must be a Picture, not {value!r}"
    try:
        field.checked(value)
    except UsageError as error:
        return str(error).replace(field.option, field.name, 1)
    return None


def _possible(request: Request, info: ModelInfo) -> str | None:
    task, has_image = task_of(request), request.extra.get("image") is not None
    if not has_image and request.extra.get("mask_image") is not None:
        return "a mask_image without an image"
    if not has_image and task.needs_picture:
        return f"{task.name} needs an image"
    if task.name not in info.tasks:
        if not has_image and request.task in info.tasks:
            return f"{request.task} with this model needs an image"
        return f"this model is not made for {task.name}, but for {', '.join(info.tasks)}"
    if task.is_noised and not _adds_noise(resolve(request.sampler), info):
        return f"sampler {resolve(request.sampler)} can't add noise to a picture, which {task.name} needs"
    return task.check(request, info)


def _adds_noise(sampler: str, info: ModelInfo) -> bool:
    """Whether the pipeline of a task that starts from a picture can use the sampler's scheduler to add noise to it."""
    scheduler = EVERY_SAMPLER[sampler].scheduler
    if info.prediction_type == FLOW:
        return scheduler.startswith(WITH_SCALE_NOISE)
    return scheduler not in WITHOUT_ADD_NOISE


def _integer(value: Any) -> int | None:
    if isinstance(value, bool):
        return None
    try:
        return operator.index(value)
    except TypeError:
        return None
