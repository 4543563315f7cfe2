"""What a run writes: its files, their formats, their place."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any

from sdbatch.bounds import Whole
from sdbatch.kinds import Choice, Flag, Text
from sdbatch.option_kinds import Options
from sdbatch.settings.setting_groups import OUTPUT, of_the_run, unimportant

__all__ = ["COMPRESSIONS", "IMAGE_FORMATS", "LAYOUTS", "MAX_IMAGES_PER_SHARD", "OutputSettings"]

COMPRESSIONS = ("fast", "small")
IMAGE_FORMATS = ("png", "jpeg", "webp")
LAYOUTS = ("files", "parquet", "webdataset")
MAX_IMAGES_PER_SHARD = 10_000


@dataclass(frozen=True, kw_only=True)
class OutputSettings:
    """What a run writes: its files, their formats, their place."""

    images_per_prompt: Annotated[
        int,
        of_the_run(Whole(1, MAX_IMAGES_PER_SHARD), "images of each row; image i uses seed + i", OUTPUT, metavar="N"),
    ] = 1
    layout: Annotated[str, of_the_run(Choice(LAYOUTS), "how images and metadata are stored", OUTPUT)] = "files"
    image_format: Annotated[str, of_the_run(Choice(IMAGE_FORMATS), "format of the image files", OUTPUT)] = "png"
    image_quality: Annotated[
        int | None,
        of_the_run(Whole(1, 100), "1 to 100; default: 95 for JPEG, lossless for WebP", OUTPUT, metavar="Q"),
    ] = None
    compression: Annotated[
        str | None,
        of_the_run(
            Choice(COMPRESSIONS),
            "how PNG and lossless WebP are compressed; small makes WebP 8 to 40% smaller in 15 times the time, "
            "but not PNGs of photographs",
            OUTPUT,
            fallback=COMPRESSIONS[0],
            before="small",
        ),
    ] = None
    keep_input_images: Annotated[
        bool,
        of_the_run(
            Flag(),
            "keep the bytes of input pictures in the metadata, so that OUT does not depend on their files",
            OUTPUT,
            before=False,
        ),
    ] = False
    watermark: Annotated[
        str | None,
        of_the_run(
            Text(),
            "put TEXT into the pictures as an invisible watermark (dwtDct), as Stable Diffusion's repositories do with "
            "StableDiffusionV1; sdxl is the one of diffusers' SDXL pipelines",
            OUTPUT,
            metavar="TEXT",
            before=None,
        ),
    ] = None
    shard_size: Annotated[
        int | None,
        unimportant(
            Whole(1, MAX_IMAGES_PER_SHARD), "images per shard; default: chosen by the table's size", OUTPUT, metavar="N"
        ),
    ] = None
    overwrite: Annotated[
        bool,
        unimportant(Flag(), "replace the output of earlier runs in OUT; without it a second run resumes", OUTPUT),
    ] = False
    storage_options: Annotated[
        Mapping[str, Any],
        unimportant(Options(), "fsspec options for PROMPTS and OUT, a JSON object", OUTPUT, metavar="JSON"),
    ] = field(default_factory=dict)
