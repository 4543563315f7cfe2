"""Encodes pixels to image files that carry their parameters.

The bytes depend only on the pixels and the settings.
"""

from __future__ import annotations

import io
import zlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from PIL import ExifTags, Image
from PIL.PngImagePlugin import PngImageFile, PngInfo

from sdbatch.diffusion.request import ROW_FIELDS
from sdbatch.fields import Field
from sdbatch.output.parameters import fitted, parameters

__all__ = ["decoded", "encode", "expected_parameters", "read_parameters"]

# How lossless files are compressed, by `--compression`. PNG's filters leave small differences between neighbours, of
# which zlib's search for repetitions finds few in a photograph: runs take a fifth of the time, and no more bytes.
PNG_OPTIONS: Mapping[str, Mapping[str, int]] = {
    "fast": {"compress_level": 6, "compress_type": zlib.Z_RLE},
    "small": {"compress_level": 6},
}
WEBP_OPTIONS: Mapping[str, Mapping[str, int]] = {"fast": {"method": 0, "quality": 0}, "small": {}}
JPEG_QUALITY = 95
MAX_EXIF_UNITS = 32_000  # UTF-16 code units; a JPEG segment holds 64 KB
UNICODE = b"UNICODE\0"
PNG_KEYWORD = "parameters"
FORMATS = ("PNG", "JPEG", "WEBP")


def encode(
    pixels: np.ndarray,
    image_format: str,
    quality: int | None,
    compression: str,
    row: Mapping[str, Any],
    fields: Sequence[Field] = ROW_FIELDS,
) -> bytes:
    """Encode `pixels`, uint8 (height, width, 3), as an image file with the row's parameters.

    Args:
        image_format: "png", "jpeg" or "webp".
        quality: 1 to 100 for JPEG (95 if None) and WebP (lossless if None); PNG is always lossless.
        compression: "fast" or "small", of lossless files.
        row, fields: as for `parameters`.
    """
    image = Image.fromarray(pixels)
    file = io.BytesIO()
    text = expected_parameters(row, image_format, fields)
    if image_format == "png":
        chunks = PngInfo()
        chunks.add_text(PNG_KEYWORD, text)
        image.save(file, "PNG", pnginfo=chunks, **PNG_OPTIONS[compression])
    elif image_format == "jpeg":
        # Chroma at full resolution: half resolution would blur thin coloured lines.
        image.save(file, "JPEG", quality=quality or JPEG_QUALITY, subsampling="4:4:4", exif=_exif(text))
    elif quality is None:
        image.save(file, "WEBP", lossless=True, exif=_exif(text), **WEBP_OPTIONS[compression])
    else:
        image.save(file, "WEBP", quality=quality, exif=_exif(text))
    return file.getvalue()


def expected_parameters(row: Mapping[str, Any], image_format: str, fields: Sequence[Field] = ROW_FIELDS) -> str:
    """The parameters that an image of this row carries; shortened in JPEG, whose segments are small."""
    return fitted(row, MAX_EXIF_UNITS, fields) if image_format == "jpeg" else parameters(row, fields)


def decoded(data: bytes, size: tuple[int, int], formats: tuple[str, ...] = FORMATS) -> Image.Image:
    """Decode an image file in one of sdbatch's formats, which must have the size (width, height).

    Raises:
        ValueError: it has another size, or cannot be decoded.
    """
    try:
        image = Image.open(io.BytesIO(data), formats=formats)
        if image.size == size:  # before it is decoded: it may claim to be huge
            image.load()
            return image
    except Exception as exc:  # Pillow's plugins raise all kinds of exceptions for damaged files
        raise ValueError(f"does not decode ({' '.join(str(exc).split())[:200]})") from exc
    raise ValueError(f"is {image.width}x{image.height}; the metadata has {size[0]}x{size[1]}")


def read_parameters(image: Image.Image) -> str | None:
    """The parameters that an opened image carries; None if it carries none."""
    try:
        if isinstance(image, PngImageFile):
            return image.text.get(PNG_KEYWORD)
        comment = image.getexif().get_ifd(ExifTags.IFD.Exif).get(ExifTags.Base.UserComment)
        return comment.removeprefix(UNICODE).decode("utf-16-be") if isinstance(comment, bytes) else None
    except Exception:  # not written by sdbatch; see `decoded`
        return None


def _exif(text: str) -> bytes:
    exif = Image.Exif()
    exif.get_ifd(ExifTags.IFD.Exif)[ExifTags.Base.UserComment] = UNICODE + text.encode("utf-16-be", "replace")
    return exif.tobytes()
