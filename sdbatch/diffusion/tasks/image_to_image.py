"""Image to image (SDEdit, Meng et al. 2022): a row starts from a picture with noise over it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sdbatch.diffusion.checkpoints.model_info import FLOW, ModelInfo
from sdbatch.diffusion.request import Request
from sdbatch.diffusion.tasks.extras import IMAGE, RESIZE, Extra, decimal
from sdbatch.diffusion.tasks.sizes import covers, own_size, resize_refusal
from sdbatch.diffusion.tasks.task import Need, Run, Start, Task

if TYPE_CHECKING:
    from sdbatch.diffusion.samplers.coefficients import Table
    from sdbatch.diffusion.tasks.task import Draw

__all__ = ["ImageToImage", "strength_field"]


FLOW_FAMILIES = ("flux", "z-image", "qwen-image")


def strength_field(default: float, xl: float | None = None, flow: float | None = None) -> Extra:
    """The share of the steps that a row runs: 1 is all of them, 0 would leave the picture unchanged.

    Args:
        default: that of the pipelines of Stable Diffusion 1 and 2.
        xl, flow: those of Stable Diffusion XL, and of models for flow matching.
    """
    of_family = {} if xl is None else {"sdxl": xl, "sdxl-refiner": xl}
    of_family |= {} if flow is None else dict.fromkeys(FLOW_FAMILIES, flow)
    return Extra("strength", "number", default, of_family, low=0, high=1)


class ImageToImage(Task):
    """The task of StableDiffusionImg2ImgPipeline and its equivalents: a picture and a prompt.

    A row's size is its picture's, in whole cells of the model; a height and width in the row crop the picture first.
    """

    name = "image-to-image"
    extras = (IMAGE, RESIZE, strength_field(0.8, xl=0.3, flow=0.6))
    is_noised = True

    def check(self, request: Request, info: ModelInfo) -> str | None:
        strength = self.strength(request, info)
        if self._steps(request, info) < 1 and not (_is_consistency(info) and strength):
            return f"strength {strength:g} of {request.steps} steps leaves no step"
        return resize_refusal(request, info)

    def strength(self, request: Request, info: ModelInfo) -> float:
        return decimal(self.value(request, info, "strength"))

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

    def start(self, request: Request, info: ModelInfo, table: Table, encoded: list[Any], draw: Draw) -> Start:
        image = encoded[0].sample(draw)
        # Also at strength 1, where hardly anything of the picture is left.
        return Start(table.start[0] * image + table.start[1] * draw())

    def _steps(self, request: Request, info: ModelInfo) -> int:
        """The number of steps that a row runs."""
        steps, strength = int(request.steps), self.strength(request, info)
        if info.prediction_type == FLOW:
            # Their pipelines round the steps that are left out, not those that are left.
            return steps - int(max(steps - min(steps * strength, steps), 0))
        return min(int(steps * strength), steps)


def _is_consistency(info: ModelInfo) -> bool:
    return info.pipeline == "LatentConsistencyModelPipeline"
