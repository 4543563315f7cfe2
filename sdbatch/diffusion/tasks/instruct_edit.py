"""Edits by instruction (InstructPix2Pix, Brooks et al. 2023): a prompt says what to change in a picture."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sdbatch.diffusion.checkpoints.model_info import ModelInfo
from sdbatch.diffusion.request import Request
from sdbatch.diffusion.tasks.picture_fields import IMAGE, IMAGE_GUIDANCE_SCALE, RESIZE
from sdbatch.diffusion.tasks.sizes import covers, own_size, resize_refusal
from sdbatch.diffusion.tasks.task import Need, Start, Task
from sdbatch.fields import FrozenMapping

if TYPE_CHECKING:
    from sdbatch.diffusion.samplers.coefficients import Coefficients
    from sdbatch.diffusion.tasks.task import Draw

__all__ = ["InstructEdit"]


class InstructEdit(Task):
    """The task of StableDiffusionInstructPix2PixPipeline: a picture and an instruction.

    With guidance a row takes three lanes: text and picture, picture only, neither.
    """

    name = "instruct-edit"
    fields = (IMAGE, RESIZE, IMAGE_GUIDANCE_SCALE)
    defaults = FrozenMapping({"steps": 100, "guidance_scale": 7.5, "image_guidance_scale": 1.5})
    needs_picture = True
    branches = 3

    def check(self, request: Request, info: ModelInfo) -> str | None:
        return resize_refusal(request, info)

    def size(self, request: Request, info: ModelInfo) -> tuple[int, int]:
        return own_size(request, info)

    def is_guided(self, request: Request, info: ModelInfo) -> bool:
        return self.image_guidance(request, info) >= 1

    def image_guidance(self, request: Request, info: ModelInfo) -> float:
        return float(self.value(request, info, "image_guidance_scale"))

    def needs(self, request: Request, info: ModelInfo) -> list[Need]:
        return [Need("image", request.extra["image"], self.size(request, info), covers(request))]

    def start(
        self, request: Request, info: ModelInfo, coefficients: Coefficients, encoded: list[Any], draw: Draw
    ) -> Start:
        picture = {"channels": encoded[0].mean}  # the VAE's output, not scaled
        nothing = {"channels": encoded[0].mean * 0}
        return Start(draw() * coefficients.init_noise_sigma, [picture, picture, nothing])
