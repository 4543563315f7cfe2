"""Sizes of rows whose size follows from their picture."""

from __future__ import annotations

import math

from sdbatch.diffusion.checkpoints.model_info import ModelInfo
from sdbatch.diffusion.pictures.picture import Picture
from sdbatch.diffusion.request import Request
from sdbatch.errors import PictureError
from sdbatch.option_kinds import SIZE

__all__ = ["covers", "own_size", "picture_sizes", "resize_reason", "resize_refusal"]

# Aspect ratios, width to height, of `buckets`: those of common photos, in both orientations.
SHAPES = ((1, 1), (5, 4), (4, 3), (3, 2), (16, 9), (2, 1))
# Sides of buckets are multiples of this if the model is large enough.
BUCKET_STEP, LARGE = 64, 512


def resize_reason(text: str) -> str | None:
    """The reason why the text is not a valid `resize`, or None."""
    return None if text in ("model", "buckets") or SIZE.fullmatch(text) else "expected WxH, `model` or `buckets`"


def resize_refusal(request: Request, info: ModelInfo, scale: int = 1) -> str | None:
    """The reason why the row's pictures can't be resized by its `resize`, or None."""
    match = SIZE.fullmatch(request.extra.get("resize") or "")
    cell = info.vae_scale if scale > 1 else max(info.vae_scale, info.size_multiple)
    if match and any(int(side) % cell for side in match.groups()):
        return f"resize {match[0]}: both sides must be multiples of {cell}"
    return None


def covers(request: Request) -> bool:
    """Whether the picture is scaled to cover the row's size and cropped to its centre; otherwise it is stretched."""
    return any(value is not None for value in (request.height, request.width, request.extra.get("resize")))


def own_size(
    request: Request, info: ModelInfo, scale: int = 1, picture: Picture | None = None, multiple: int | None = None
) -> tuple[int, int]:
    """Height and width in pixels: the row's own, else by `resize`, else the picture's, in whole cells.

    Args:
        scale: how many times larger the result is than the picture; the returned size is the picture's.
        picture: by default the row's `image`.
        multiple: pixels per side of a cell; by default the model's `vae_scale`.

    Raises:
        PictureError: the picture can't be read, or is smaller than a cell.
    """
    picture = picture or request.extra["image"]
    cell = multiple or info.vae_scale
    resize = request.extra.get("resize")
    if request.height and request.width:
        return request.height, request.width
    found = picture.size if resize is None else resized(resize, picture, info, scale)
    height, width = (pixels // cell * cell for pixels in found)
    size = request.height or height, request.width or width
    if not all(size):
        raise PictureError(f"{picture.name}: smaller than {cell}x{cell} pixels")
    return size


def resized(resize: str, picture: Picture, info: ModelInfo, scale: int) -> tuple[int, int]:
    """Height and width that a picture is resized to; only `buckets` opens it. Raises `PictureError`."""
    if match := SIZE.fullmatch(resize):
        return int(match[2]), int(match[1])
    if resize == "model":
        return info.height // scale, info.width // scale
    height, width = picture.size
    shape = math.log(width / height)
    return min(picture_sizes(info, scale), key=lambda other: abs(math.log(other[1] / other[0]) - shape))


def picture_sizes(info: ModelInfo, scale: int = 1) -> list[tuple[int, int]]:
    """The heights and widths of `buckets`, each with about as many pixels as the model's own size."""
    area = info.height * info.width / scale**2
    step = BUCKET_STEP if min(info.height, info.width) // scale >= LARGE else max(info.vae_scale, info.size_multiple)
    found = []
    for long, short in SHAPES:
        sides = [max(1, round(math.sqrt(area * ratio) / step)) * step for ratio in (long / short, short / long)]
        found += [(sides[1], sides[0]), (sides[0], sides[1])]
    return list(dict.fromkeys(found))
