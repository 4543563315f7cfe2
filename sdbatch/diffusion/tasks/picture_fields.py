"""The settings that only rows of some tasks have. The tasks define their defaults."""

from __future__ import annotations

from sdbatch import kinds
from sdbatch.bounds import Number, Whole
from sdbatch.diffusion.tasks.sizes import resize_reason
from sdbatch.fields import Field

__all__ = ["IMAGE", "IMAGE_GUIDANCE_SCALE", "MASK_IMAGE", "NOISE_LEVEL", "PADDING_MASK_CROP", "RESIZE", "STRENGTH"]

GROUP = "pictures as input"

IMAGE = Field(
    name="image",
    kind=kinds.Picture(),
    help="default input picture of rows",
    group=GROUP,
    metavar="PATH",
    aliases=("init_image",),
    null_text="the run's; without one text to image, if the task allows it",
)
MASK_IMAGE = Field(
    name="mask_image",
    kind=kinds.Picture(),
    help="mask for inpainting: white is repainted, black is kept",
    group=GROUP,
    metavar="PATH",
    aliases=("mask",),
)
STRENGTH = Field(
    name="strength",
    kind=Number(0, 1),
    help="how much to change the picture, 0 to 1: the share of the steps to run; default: the pipeline's",
    group=GROUP,
    metavar="F",
    aliases=("denoising_strength",),
    parameter="Denoising strength",
)
RESIZE = Field(
    name="resize",
    kind=kinds.Text(),
    help="scale input pictures to cover one size and crop them to its centre: WxH, `model` (the model's own) "
    "or `buckets` (the nearest of a few shapes); a row's height and width take precedence; default: off",
    group=GROUP,
    metavar="SIZE",
    check=resize_reason,
    before=None,
    short="`512x768`, `model` or `buckets`: the size that input pictures are resized to",
)
NOISE_LEVEL = Field(
    name="noise_level",
    kind=Whole(0, 100_000),
    help="upscaling and image-variation: noise level of the picture; default: that of the pipeline",
    group=GROUP,
    metavar="N",
)
IMAGE_GUIDANCE_SCALE = Field(
    name="image_guidance_scale",
    kind=Number(-1_000_000, 1_000_000),
    help="instruct-edit: how closely the picture is followed; default: that of the pipeline",
    group=GROUP,
    metavar="G",
)
PADDING_MASK_CROP = Field(
    name="padding_mask_crop",
    kind=Whole(0, 16_384),
    help="inpainting: paint the masked area plus this many pixels around it at full size; default: no crop",
    group=GROUP,
    metavar="N",
)
