"""Upscaling: the result has four times the height and width of the row's picture."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sdbatch.diffusion.checkpoints.model_info import ModelInfo
from sdbatch.diffusion.request import Request
from sdbatch.diffusion.tasks.picture_fields import IMAGE, NOISE_LEVEL, RESIZE
from sdbatch.diffusion.tasks.sizes import covers, own_size, resize_refusal
from sdbatch.diffusion.tasks.task import Need, Start, Task
from sdbatch.fields import FrozenMapping

if TYPE_CHECKING:
    from sdbatch.diffusion.samplers.coefficients import Coefficients
    from sdbatch.diffusion.tasks.task import Draw

__all__ = ["Upscaling"]


class Upscaling(Task):
    """The task of StableDiffusionUpscalePipeline: a picture and a prompt."""

    name = "upscaling"
    fields = (IMAGE, RESIZE, NOISE_LEVEL)
    defaults = FrozenMapping({"noise_level": 20})
    needs_picture = True

    def check(self, request: Request, info: ModelInfo) -> str | None:
        if request.height is not None or request.width is not None:
            return f"upscaling takes no height and width: it makes {info.vae_scale} times those of its image"
        level = self.value(request, info, "noise_level")
        if level > info.max_noise_level:
            return f"noise_level {level} is more than the {info.max_noise_level} of this model"
        return resize_refusal(request, info, info.vae_scale)

    def size(self, request: Request, info: ModelInfo) -> tuple[int, int]:
        height, width = self._given_size(request, info)
        return height * info.vae_scale, width * info.vae_scale

    def needs(self, request: Request, info: ModelInfo) -> list[Need]:
        return [Need("low resolution", request.extra["image"], self._given_size(request, info), covers(request))]

    def _given_size(self, request: Request, info: ModelInfo) -> tuple[int, int]:
        """The size of the picture to upscale."""
        return own_size(request, info, info.vae_scale)

    def start(
        self, request: Request, info: ModelInfo, coefficients: Coefficients, encoded: list[Any], draw: Draw
    ) -> Start:
        tensors = encoded[0].noised(draw, self.value(request, info, "noise_level"))
        return Start(draw() * coefficients.init_noise_sigma, [tensors])
