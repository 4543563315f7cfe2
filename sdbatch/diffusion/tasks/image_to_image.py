"""Image to image (SDEdit, Meng et al. 2022): a row starts from a picture with noise over it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from sdbatch.diffusion.checkpoints.model_info import FLOW, ModelInfo
from sdbatch.diffusion.request import Request
from sdbatch.diffusion.tasks.picture_fields import IMAGE, RESIZE, STRENGTH
from sdbatch.diffusion.tasks.sizes import covers, own_size, resize_refusal
from sdbatch.diffusion.tasks.task import Need, Run, Start, Task
from sdbatch.fields import Field, FrozenMapping

if TYPE_CHECKING:
    from sdbatch.diffusion.samplers.coefficients import Coefficients
    from sdbatch.diffusion.tasks.task import Draw

__all__ = ["SDXL", "ImageToImage"]

SDXL = ("sdxl", "sdxl-refiner")
FLOW_FAMILIES = ("flux", "qwen-image", "sd3", "z-image")


class ImageToImage(Task):
    """The task of StableDiffusionImg2ImgPipeline and its equivalents: a picture and a prompt.

    A row's size is its picture's, in whole cells of the model; a height and width in the row crop the picture first.
    """

    name = "image-to-image"
    fields: Sequence[Field] = (IMAGE, RESIZE, STRENGTH)
    defaults = FrozenMapping({"strength": 0.8})
    family_defaults = FrozenMapping(
        {family: {"strength": 0.3} for family in SDXL}
        | {family: {"strength": 0.6} for family in FLOW_FAMILIES}
        | {"chroma": {"strength": 0.9}}
    )
    is_noised = True

    def check(self, request: Request, info: ModelInfo) -> str | None:
        strength = self.strength(request, info)
        if self._steps(request, info) < 1 and not (_is_consistency(info) and strength):
            return f"strength {strength:g} of {request.steps} steps leaves no step"
        return resize_refusal(request, info)

    def strength(self, request: Request, info: ModelInfo) -> float:
        """The share of the steps that a row runs: 1 is all of them, 0 would leave the picture unchanged."""
        return _decimal(self.value(request, info, "strength"))

    def size(self, request: Request, info: ModelInfo) -> tuple[int, int]:
        return own_size(request, info)

    def run(self, request: Request, info: ModelInfo) -> Run:
        steps = int(request.steps)
        if _is_consistency(info):
            # LCM's own pipeline spreads all steps over the part of the schedule that the strength leaves.
            return Run(steps, noised=True, schedule=(("strength", self.strength(request, info)),))
        return Run(steps, steps - self._steps(request, info), noised=True)

    def needs(self, request: Request, info: ModelInfo) -> list[Need]:
        return [Need("image", request.extra["image"], self.size(request, info), covers(request))]

    def start(
        self, request: Request, info: ModelInfo, coefficients: Coefficients, encoded: list[Any], draw: Draw
    ) -> Start:
        image = encoded[0].sample(draw)
        # Also at strength 1, where hardly anything of the picture is left.
        return Start(coefficients.noised(image, draw()))

    def _steps(self, request: Request, info: ModelInfo) -> int:
        """The number of steps that a row runs."""
        steps, strength = int(request.steps), self.strength(request, info)
        if info.prediction_type == FLOW:
            # Their pipelines round the steps that are left out, not those that are left.
            return steps - int(max(steps - min(steps * strength, steps), 0))
        return min(int(steps * strength), steps)


def _is_consistency(info: ModelInfo) -> bool:
    return info.pipeline == "LatentConsistencyModelPipeline"


def _decimal(value: float) -> float:
    """The shortest decimal number of a float32: 0.7 rather than 0.699999988.

    int(10 · float32(0.7)) is 6, one step too few.
    """
    single = np.float32(value)
    return float(str(single)) if float(single) == float(value) else float(value)
