"""Image variation (unCLIP, Ramesh et al. 2022): a row is conditioned on the CLIP embedding of its picture."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sdbatch.diffusion.checkpoints.model_info import ModelInfo
from sdbatch.diffusion.request import Request
from sdbatch.diffusion.tasks.picture_fields import IMAGE, NOISE_LEVEL
from sdbatch.diffusion.tasks.task import Need, Start, Task
from sdbatch.fields import FrozenMapping

if TYPE_CHECKING:
    from sdbatch.diffusion.samplers.coefficients import Coefficients
    from sdbatch.diffusion.tasks.task import Draw

__all__ = ["ImageVariation"]


class ImageVariation(Task):
    """The task of StableUnCLIPImg2ImgPipeline: a picture and a prompt, which may be empty."""

    name = "image-variation"
    fields = (IMAGE, NOISE_LEVEL)
    defaults = FrozenMapping({"noise_level": 0})
    needs_picture = True
    needs_prompt = False

    def check(self, request: Request, info: ModelInfo) -> str | None:
        level = self.value(request, info, "noise_level")
        if level > info.max_noise_level:
            return f"noise_level {level} is more than the {info.max_noise_level} of this model"
        return None

    def needs(self, request: Request, info: ModelInfo) -> list[Need]:
        return [Need("vision", request.extra["image"])]

    def start(
        self, request: Request, info: ModelInfo, coefficients: Coefficients, encoded: list[Any], draw: Draw
    ) -> Start:
        shown, nothing = encoded[0].noised(draw, self.value(request, info, "noise_level"))
        return Start(draw() * coefficients.init_noise_sigma, [shown, nothing])
