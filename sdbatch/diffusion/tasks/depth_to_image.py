"""Depth to image: a row starts from a picture, and the picture's depth map is an input of the UNet."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

from sdbatch.diffusion.checkpoints.model_info import ModelInfo
from sdbatch.diffusion.request import Request
from sdbatch.diffusion.tasks.image_to_image import ImageToImage
from sdbatch.diffusion.tasks.task import Need, Start, Unusable
from sdbatch.fields import FrozenMapping

if TYPE_CHECKING:
    from sdbatch.diffusion.pictures.picture_encoders import Depth
    from sdbatch.diffusion.samplers.coefficients import Coefficients
    from sdbatch.diffusion.tasks.task import Draw

__all__ = ["DepthToImage"]


class DepthToImage(ImageToImage):
    """The task of StableDiffusionDepth2ImgPipeline: a picture and a prompt."""

    name = "depth-to-image"
    family_defaults = FrozenMapping()
    needs_picture = True

    def needs(self, request: Request, info: ModelInfo) -> list[Need]:
        (image,) = super().needs(request, info)
        return [image, dataclasses.replace(image, kind="depth")]

    def start(
        self, request: Request, info: ModelInfo, coefficients: Coefficients, encoded: list[Any], draw: Draw
    ) -> Start:
        start = super().start(request, info, coefficients, encoded, draw)
        depth: Depth = encoded[1]
        reason = f"{request.extra['image'].name}: its estimated depth is constant, so it can't be used"
        return dataclasses.replace(
            start, tensors=[{"channels": depth.map}], unusable=Unusable(depth.is_constant, reason)
        )
