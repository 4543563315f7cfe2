"""What a task's rows may hold besides what all rows do, as data that the engine goes by."""

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
            help="the picture that rows start from, where they do not name one themselves",
            group=GROUP,
            metavar="PATH",
            aliases=("init_image",),
            null_text="the run's; without one text to image, where the task allows it",
        ),
        Field(
            name="mask_image",
            kind=kinds.Picture(),
            help="what inpainting paints: white is painted, black is kept",
            group=GROUP,
            metavar="PATH",
            aliases=("mask",),
        ),
        Field(
            name="strength",
            kind=Number(0, 1),
            help="how much of the run a row goes through, 0 to 1; default: what the task's pipeline has",
            group=GROUP,
            metavar="F",
            aliases=("denoising_strength",),
            parameter="Denoising strength",
        ),
        Field(
            name="resize",
            kind=Text(),
            help="bring pictures to one size, covering it and cut to its centre: WxH, `model` (the model's own) or "
            "`buckets` (of a few shapes the nearest); a row's height and width go first; default: off",
            group=GROUP,
            metavar="SIZE",
            check=resize_reason,
            before=None,
            short="`512x768`, `model` or `buckets`: the size that the picture is brought to",
        ),
        Field(
            name="noise_level",
            kind=Whole(0, 100_000),
            help="noise on the picture of upscaling and image-variation; default: what their pipelines have",
            group=GROUP,
            metavar="N",
        ),
        Field(
            name="image_guidance_scale",
            kind=Number(-1_000_000, 1_000_000),
            help="of instruct-edit: how closely the picture is followed; default: what its pipeline has",
            group=GROUP,
            metavar="G",
        ),
        Field(
            name="padding_mask_crop",
            kind=Whole(0, 16_384),
            help="of inpainting: paint the masked area and this many pixels around it at full size; default: all of it",
            group=GROUP,
            metavar="N",
        ),
    )
}
"""The settings of all tasks by name, as tables and options know them. Defaults are the tasks' own."""


@dataclass(frozen=True)
class Extra:
    """One entry of `Request.extra`.

    Attributes:
        name: as diffusers' pipelines call it.
        kind: "picture", "text", "number" or "integer".
        default: what a row has without it; None for nothing.
        of_family: other defaults, by family.
        low, high: bounds of a number, both allowed.
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
        """Why this is no value for it, or None."""
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
    """A number that was kept in float32, as its decimal text says it: .7 and not .699999988.

    int(10 · float32(.7)) is 6: it would cost a step.
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
