"""Inpainting: a row repaints its picture where the mask is white, and keeps it elsewhere."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sdbatch.diffusion.checkpoints.model_info import ModelInfo
from sdbatch.diffusion.request import Request
from sdbatch.diffusion.tasks.image_to_image import SDXL, ImageToImage
from sdbatch.diffusion.tasks.picture_fields import IMAGE, MASK_IMAGE, PADDING_MASK_CROP, RESIZE, STRENGTH
from sdbatch.diffusion.tasks.sizes import own_size
from sdbatch.diffusion.tasks.task import Need, Start
from sdbatch.fields import FrozenMapping

if TYPE_CHECKING:
    import numpy as np
    import torch

    from sdbatch.diffusion.samplers.coefficients import Coefficients
    from sdbatch.diffusion.tasks.task import Draw

__all__ = ["Inpainting"]


class Inpainting(ImageToImage):
    """The task of StableDiffusionInpaintPipeline and its equivalents: a picture, a mask and a prompt.

    Picture and mask are stretched to the row's height and width; with `resize` both are scaled and cropped. A UNet with
    channels for them gets the mask and the masked picture; otherwise the latents outside the mask are restored
    after each call.
    """

    name = "inpainting"
    fields = (IMAGE, MASK_IMAGE, RESIZE, STRENGTH, PADDING_MASK_CROP)
    defaults = FrozenMapping({"strength": 1.0})
    family_defaults = FrozenMapping({family: {"strength": 0.9999} for family in SDXL})

    def check(self, request: Request, info: ModelInfo) -> str | None:
        if request.extra.get("mask_image") is None:
            return "inpainting needs a mask_image beside the image: white is repainted, black is kept"
        if request.extra.get("resize") is not None and request.extra.get("padding_mask_crop") is not None:
            return "inpainting takes either resize or padding_mask_crop, which keeps the picture's own size"
        return super().check(request, info)

    def size(self, request: Request, info: ModelInfo) -> tuple[int, int]:
        if request.extra.get("resize") is not None:
            return own_size(request, info)
        return request.height or info.height, request.width or info.width

    def needs(self, request: Request, info: ModelInfo) -> list[Need]:
        def need(kind: str) -> Need:
            extra = request.extra
            padding = self.value(request, info, "padding_mask_crop")
            resizes = extra.get("resize") is not None
            size = self.size(request, info)
            return Need(kind, extra["image"], size, resizes, mask=extra["mask_image"], padding=padding)

        kinds = ["mask", "masked"] if self._from_noise_alone(request, info) else ["mask", "masked", "image"]
        return [need(kind) for kind in kinds]

    def start(
        self, request: Request, info: ModelInfo, coefficients: Coefficients, encoded: list[Any], draw: Draw
    ) -> Start:
        mask, masked, *picture = encoded
        image = picture[0].sample(draw, shifted=False) if picture else None
        noise = draw()
        # Also drawn if the UNet does not use it.
        masked_image = masked.sample(draw, shifted=False)
        whole = self.strength(request, info) == 1
        latents = noise * coefficients.init_noise_sigma if whole else coefficients.noised(image, noise)
        if info.extra_channels:
            return Start(latents, [{"channels": _beside(mask.float(), masked_image)}])
        return Start(latents, keep=(mask, image, noise))

    def _from_noise_alone(self, request: Request, info: ModelInfo) -> bool:
        return info.extra_channels > 0 and self.strength(request, info) == 1

    def finish(self, request: Request, info: ModelInfo, pixels: np.ndarray) -> np.ndarray:
        padding = self.value(request, info, "padding_mask_crop")
        if padding is None:
            return pixels
        from sdbatch.diffusion.pictures.picture_pixels import overlay  # imports torch, which planning does not need

        return overlay(self.needs(request, info)[0], pixels)


def _beside(*tensors: torch.Tensor) -> torch.Tensor:
    import torch

    return torch.cat(tensors)
