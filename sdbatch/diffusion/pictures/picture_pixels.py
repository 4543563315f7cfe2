"""Prepares the pixels of pictures and masks with diffusers' own processors."""

from __future__ import annotations

import numpy as np
import PIL.Image
import PIL.ImageOps
import torch
from diffusers.image_processor import VaeImageProcessor

from sdbatch.diffusion.tasks.task import Need
from sdbatch.errors import PictureError

__all__ = ["Pixels", "overlay"]


class Pixels:
    """Prepares pictures and masks like diffusers' pipelines."""

    def __init__(self, cell: int):
        self.images = VaeImageProcessor(vae_scale_factor=cell)
        self.masks = VaeImageProcessor(
            vae_scale_factor=cell, do_normalize=False, do_binarize=True, do_convert_grayscale=True
        )

    def picture(self, need: Need) -> PIL.Image.Image:
        return self._fitted(need, need.picture.load())

    def _fitted(self, need: Need, image: PIL.Image.Image) -> PIL.Image.Image:
        if not need.covers:
            return image
        height, width = need.size
        return PIL.ImageOps.fit(image, (width, height), PIL.Image.Resampling.LANCZOS)

    def box(self, need: Need, mask: PIL.Image.Image) -> tuple[int, int, int, int] | None:
        """The crop of picture and mask: left, top, right, bottom."""
        if need.padding is None:
            return None
        if need.mask.size != need.picture.size:
            raise PictureError(f"{need.mask.name}: with padding_mask_crop {_both_sizes(need)}")
        if mask.convert("L").getbbox() is None:
            raise PictureError(f"{need.mask.name}: is all black, so there is no area to crop to")
        height, width = need.size
        return self.masks.get_crop_region(mask, width, height, pad=need.padding)

    def image(self, need: Need, mask: PIL.Image.Image | None = None) -> torch.Tensor:
        """float32 (3, H, W), within ±1."""
        return self._prepare(self.images, need, self.picture(need), mask)

    def mask(self, need: Need, mask: PIL.Image.Image) -> torch.Tensor:
        """float32 (1, H, W), 1 where the picture is repainted."""
        if need.covers and need.mask.size != need.picture.size:
            raise PictureError(f"{need.mask.name}: with resize {_both_sizes(need)}")
        return self._prepare(self.masks, need, self._fitted(need, mask), mask)

    def _prepare(self, processor, need: Need, image: PIL.Image.Image, mask: PIL.Image.Image | None) -> torch.Tensor:
        height, width = need.size
        box = None if mask is None else self.box(need, mask)
        mode = "default" if box is None else "fill"
        return processor.preprocess(image, height=height, width=width, crops_coords=box, resize_mode=mode)[0]


def _both_sizes(need: Need) -> str:
    sizes = " and ".join("{1}x{0}".format(*picture.size) for picture in (need.mask, need.picture))
    return f"it needs its picture's size ({sizes})"


def overlay(need: Need, pixels: np.ndarray) -> np.ndarray:
    """Paste the result for the crop of a mask and padding back into the picture: uint8 (H, W, 3)."""
    prepare = Pixels(1)
    mask, picture = need.mask.load_mask(), prepare.picture(need)
    painted = PIL.Image.fromarray(pixels)
    return np.asarray(prepare.images.apply_overlay(mask, picture, painted, prepare.box(need, mask)))
