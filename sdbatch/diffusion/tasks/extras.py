"""The settings that only rows of some tasks have, and `Extra`, the declaration of a task's setting."""

from __future__ import annotations

import math
import operator
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from sdbatch import kinds
from sdbatch.bounds import Number, Whole
from sdbatch.diffusion.pictures.picture import Picture
from sdbatch.diffusion.tasks.sizes import resize_reason
from sdbatch.fields import Field
from sdbatch.kinds import Text

if TYPE_CHECKING:
    from sdbatch.diffusion.checkpoints.model_info import ModelInfo

__all__ = ["FIELDS", "IMAGE", "MASK_IMAGE", "RESIZE", "Extra", "decimal"]

GROUP = "pictures as input"
FIELDS = {
    field.name: field
    for field in (
        Field(
            name="image",
            kind=kinds.Picture(),
            help="default input picture of rows",
            group=GROUP,
            metavar="PATH",
            aliases=("init_image",),
            null_text="the run's; without one text to image, if the task allows it",
        ),
        Field(
            name="mask_image",
            kind=kinds.Picture(),
            help="mask for inpainting: white is repainted, black is kept",
            group=GROUP,
            metavar="PATH",
            aliases=("mask",),
        ),
        Field(
            name="strength",
            kind=Number(0, 1),
            help="how much to change the picture, 0 to 1: the share of the steps to run; default: the pipeline's",
            group=GROUP,
            metavar="F",
            aliases=("denoising_strength",),
            parameter="Denoising strength",
        ),
        Field(
            name="resize",
            kind=Text(),
            help="scale input pictures to cover one size and crop them to its centre: WxH, `model` (the model's own) "
            "or `buckets` (the nearest of a few shapes); a row's height and width take precedence; default: off",
            group=GROUP,
            metavar="SIZE",
            check=resize_reason,
            before=None,
            short="`512x768`, `model` or `buckets`: the size that input pictures are resized to",
        ),
        Field(
            name="noise_level",
            kind=Whole(0, 100_000),
            help="upscaling and image-variation: noise level of the picture; default: that of the pipeline",
            group=GROUP,
            metavar="N",
        ),
        Field(
            name="image_guidance_scale",
            kind=Number(-1_000_000, 1_000_000),
            help="instruct-edit: how closely the picture is followed; default: that of the pipeline",
            group=GROUP,
            metavar="G",
        ),
        Field(
            name="padding_mask_crop",
            kind=Whole(0, 16_384),
            help="inpainting: paint the masked area plus this many pixels around it at full size; default: no crop",
            group=GROUP,
            metavar="N",
        ),
    )
}
"""The settings of all tasks by name, as columns and options. The tasks define the defaults."""


@dataclass(frozen=True)
class Extra:
    """One entry of `Request.extra`.

    Attributes:
        name: its name in diffusers' pipelines.
        kind: "picture", "text", "number" or "integer".
        default: its value in rows without it; None for no value.
        of_family: different defaults, by family.
        low, high: bounds of a number, both inclusive.
    """

    name: str
    kind: str
    default: Any = None
    of_family: Mapping[str, Any] = field(default_factory=dict)
    low: float = -math.inf
    high: float = math.inf

    def default_of(self, info: ModelInfo) -> Any:
        return self.of_family.get(info.family, self.default)

    def check(self, value: Any) -> str | None:
        """The reason why the value is not allowed, or None."""
        if self.kind == "picture":
            return None if isinstance(value, Picture) else f"{self.name} must be a Picture, not {value!r}"
        if self.kind == "text":
            reason = None if isinstance(value, str) else "expected text"
            check = FIELDS[self.name].check
            reason = reason or (check(value) if check else None)
            return reason and f"{self.name} is {value!r}; {reason}"
        if not _is_number(value, self.kind):
            what = "an integer" if self.kind == "integer" else "a finite number"
            return f"{self.name} must be {what}, not {value!r}"
        if not self.low <= value <= self.high:
            return f"{self.name} must be {self._bounds()}, not {value}"
        return None

    def _bounds(self) -> str:
        if self.high == math.inf:
            return f"at least {self.low:g}"
        return f"from {self.low:g} to {self.high:g}"


IMAGE = Extra("image", "picture")
MASK_IMAGE = Extra("mask_image", "picture")
RESIZE = Extra("resize", "text")


def decimal(value: float) -> float:
    """The shortest decimal number of a float32: 0.7 rather than 0.699999988.

    int(10 · float32(0.7)) is 6, one step too few.
    """
    single = np.float32(value)
    return float(str(single)) if float(single) == float(value) else float(value)


def _is_number(value: Any, kind: str) -> bool:
    if isinstance(value, bool | np.bool_):
        return False
    try:
        operator.index(value) if kind == "integer" else math.isfinite(value)
        return math.isfinite(value)
    except (TypeError, OverflowError):
        return False
