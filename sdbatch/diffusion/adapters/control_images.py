"""Encodes control images: stretched to the row's size, or cropped as the row's mask is, then encoded by their net."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from diffusers.image_processor import VaeImageProcessor

from sdbatch.diffusion.pictures.picture import Picture
from sdbatch.diffusion.pictures.picture_encoders import PictureEncoder
from sdbatch.diffusion.tasks.task import Need

__all__ = ["ControlImages", "control_need"]


def control_need(kind: str, image: Picture, size: tuple[int, int], mask: Need | None) -> Need:
    """A control image to encode.

    Args:
        size: height and width of the row's picture.
        mask: a need of the row's task; if it is cropped to its mask, so is the control image.
    """
    cut = {} if mask is None or mask.padding is None else {"mask": mask.mask, "padding": mask.padding}
    return Need(kind, image, size, **cut)


class ControlImages(PictureEncoder):
    """Encodes control images for one net.

    Args:
        encode: encodes pixels (B, 3, H, W), or (B, 1, H, W) if gray, from 0 to 1, to named tensors.
        cell: pixels of a picture per side of a latent pixel.
        gray: whether the net takes gray pictures.
    """

    def __init__(self, encode: Callable[[torch.Tensor], Mapping[str, torch.Tensor]], cell: int, *, gray: bool = False):
        self._encode = encode
        self._images = VaeImageProcessor(
            vae_scale_factor=cell, do_convert_rgb=not gray, do_convert_grayscale=gray, do_normalize=False
        )

    def pixels(self, need: Need) -> torch.Tensor:
        height, width = need.size
        image, box, mode = need.picture.load(), None, "default"
        if need.padding is not None:
            box = self._images.get_crop_region(need.mask.load_mask(), width, height, pad=need.padding)
            mode = "fill"
        return self._images.preprocess(image, height=height, width=width, crops_coords=box, resize_mode=mode)[0]

    def encode(self, pixels: torch.Tensor) -> Mapping[str, torch.Tensor]:
        return self._encode(pixels)

    def result(self, need: Need, encoded: Mapping[str, torch.Tensor]) -> Any:
        return encoded
