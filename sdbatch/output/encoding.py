"""Pixels to image files that carry their parameters.

The bytes follow from the pixels and the settings alone.
"""

from __future__ import annotations

import io
from collections.abc import Mapping
from typing import Any

import numpy as np
from PIL import ExifTags, Image
from PIL.PngImagePlugin import PngInfo

from sdbatch.output.parameters import fitted, parameters

__all__ = ["encode", "expected_parameters", "read_parameters"]

PNG_COMPRESSION = 6
JPEG_QUALITY = 95
MOST_EXIF_UNITS = 32_000  # UTF-16 code units; a JPEG segment holds 64 KB
UNICODE = b"UNICODE\0"
PNG_KEYWORD = "parameters"


def encode(pixels: np.ndarray, image_format: str, quality: int | None, row: Mapping[str, Any]) -> bytes:
    """An image file of `pixels`, uint8 (height, width, 3), with the row's parameters inside.

    Args:
        image_format: "png", "jpeg" or "webp".
        quality: 1 to 100 for JPEG (95 if None) and WebP (lossless if None); PNG is always lossless.
        row: as `parameters` wants it.
    """
    image = Image.fromarray(pixels)
    file = io.BytesIO()
    text = expected_parameters(row, image_format)
    if image_format == "png":
        chunks = PngInfo()
        chunks.add_text(PNG_KEYWORD, text)
        image.save(file, "PNG", pnginfo=chunks, compress_level=PNG_COMPRESSION)
    elif image_format == "jpeg":
        # Chroma at full resolution: thin coloured lines are what half resolution spoils first.
        image.save(file, "JPEG", quality=quality or JPEG_QUALITY, subsampling="4:4:4", exif=_exif(text))
    elif quality is None:
        image.save(file, "WEBP", lossless=True, exif=_exif(text))
    else:
        image.save(file, "WEBP", quality=quality, exif=_exif(text))
    return file.getvalue()


def expected_parameters(row: Mapping[str, Any], image_format: str) -> str:
    """The parameters that an image of this row carries; in JPEG, whose segments are small, cut short."""
    return fitted(row, MOST_EXIF_UNITS) if image_format == "jpeg" else parameters(row)


def read_parameters(image: Image.Image) -> str | None:
    """The parameters that an opened image carries; None if it carries none."""
    if image.format == "PNG":
        return image.text.get(PNG_KEYWORD)
    comment = image.getexif().get_ifd(ExifTags.IFD.Exif).get(ExifTags.Base.UserComment)
    return comment.removeprefix(UNICODE).decode("utf-16-be") if comment else None


def _exif(text: str) -> bytes:
    exif = Image.Exif()
    exif.get_ifd(ExifTags.IFD.Exif)[ExifTags.Base.UserComment] = UNICODE + text.encode("utf-16-be", "replace")
    return exif.tobytes()
