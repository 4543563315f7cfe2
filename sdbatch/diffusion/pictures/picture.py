"""Input pictures: identified by content, measured from their headers, decoded on demand."""

from __future__ import annotations

import hashlib
import io
import os
from functools import cache, cached_property
from pathlib import Path

import numpy as np
import PIL.Image
import PIL.ImageOps

from sdbatch.errors import PictureError

__all__ = ["MAX_PIXELS", "Picture"]

# Pillow's own limit; a larger picture in a small file may be a decompression bomb.
MAX_PIXELS = 89_478_485
# Common formats of pictures. Pillow would also start Ghostscript for an EPS.
FORMATS = ("AVIF", "BMP", "GIF", "JPEG", "JPEG2000", "PNG", "PPM", "TIFF", "WEBP")
ORIENTATION = 0x0112
TURNED = range(5, 9)
# A mask is thresholded at half: black is kept, white is repainted. A mask with more than this share of these greys
# is rejected as a soft mask.
GREY, MAX_GREY_SHARE = range(26, 230), 0.25


class Picture:
    """A picture, encoded or decoded. Keeps only its source.

    Args:
        source: the bytes of an image file, the path of one, or a PIL image.
        name: its name in messages; by default its path.
    """

    def __init__(self, source: bytes | str | os.PathLike[str] | PIL.Image.Image, name: str | None = None):
        if not isinstance(source, bytes | str | os.PathLike | PIL.Image.Image):
            raise PictureError(f"a picture is bytes, a path or a PIL image, not a {type(source).__name__}")
        self._source = Path(source) if isinstance(source, str | os.PathLike) else source
        self.name = name or (str(self._source) if isinstance(self._source, Path) else "the picture")

    def __repr__(self) -> str:
        return f"Picture({self.name!r})"

    @cached_property
    def key(self) -> str:
        """Its identity: SHA-256, in hex, of its file, or of its pixels if it is a PIL image.

        Raises:
            PictureError: its file can't be read.
        """
        source = self._source
        if isinstance(source, PIL.Image.Image):
            head = f"{source.mode} {source.size} {_orientation(source)} {source.info.get('transparency')} "
            palette = bytes(source.getpalette() or b"") if source.mode in ("P", "PA") else b""
            return hashlib.sha256(head.encode() + palette + source.tobytes()).hexdigest()
        return hashlib.sha256(self._content()).hexdigest()

    @cached_property
    def size(self) -> tuple[int, int]:
        """Height and width in pixels after applying its orientation, from its headers alone.

        Raises:
            PictureError: it can't be read as a picture, or has more than `MAX_PIXELS`.
        """
        with self._opened() as image:
            width, height = image.size
            try:
                is_turned = _orientation(image) in TURNED
            except Exception as error:  # EXIF data can be anything
                raise PictureError(f"{self.name}: its EXIF can't be read: {_reason(error)}") from error
            return (width, height) if is_turned else (height, width)

    def load(self) -> PIL.Image.Image:
        """Its first frame in RGB, rotated by its EXIF orientation, as by diffusers' `load_image`.

        There are two differences, because `load_image` loses information: 16 bits are scaled to 8 rather than
        clipped, and values without a defined range (32 bits) are rejected.

        Raises:
            PictureError: it can't be decoded.
        """
        return self._decoded()[0]

    def load_mask(self) -> PIL.Image.Image:
        """Like `load`, for a mask: white is repainted, black is kept.

        Raises:
            PictureError: it can't be decoded, has transparency, which could be the mask, or is mostly grey.
        """
        image, opaque = self._decoded()
        if not opaque:
            raise PictureError(
                f"{self.name}: a mask with transparency, which is ambiguous; "
                "save it without transparency: white is repainted, black is kept"
            )
        shades = image.convert("L").histogram()
        if sum(shades[GREY.start : GREY.stop]) > MAX_GREY_SHARE * sum(shades):
            raise PictureError(
                f"{self.name}: a soft mask (mostly grey); masks are black and white: white is repainted, black is kept"
            )
        return image

    def _decoded(self) -> tuple[PIL.Image.Image, bool]:
        """The picture in RGB, and whether it is fully opaque."""
        with self._opened() as opened:
            try:
                image = PIL.ImageOps.exif_transpose(opened)
                image.load()
                image = _eight_bits(image)
                opaque = not _has_alpha(image) or image.convert("RGBA").getchannel("A").getextrema() == (255, 255)
                rgb = image.convert("RGB")
            except Exception as error:  # decoders raise all kinds of exceptions for damaged pictures
                raise PictureError(f"{self.name}: can't be decoded: {_reason(error)}") from error
        if (rgb.height, rgb.width) != self.size:
            raise PictureError(f"{self.name}: its orientation is stored after its pixels; save it upright")
        return rgb, opaque

    def _opened(self) -> PIL.Image.Image:
        source = self._source
        if isinstance(source, PIL.Image.Image):
            return source.copy()  # the caller closes it
        try:
            image = PIL.Image.open(io.BytesIO(source) if isinstance(source, bytes) else source, formats=_formats())
        except PIL.UnidentifiedImageError:
            raise PictureError(f"{self.name}: is not a picture in a supported format ({', '.join(FORMATS)})") from None
        except FileNotFoundError:
            raise PictureError(f"{self.name}: no such file") from None
        except Exception as error:
            raise PictureError(f"{self.name}: can't be read: {_reason(error)}") from error
        if image.width * image.height > MAX_PIXELS:
            image.close()
            raise PictureError(
                f"{self.name}: {image.width}x{image.height} exceeds the maximum of {MAX_PIXELS:,} pixels"
            )
        return image

    def _content(self) -> bytes:
        if isinstance(self._source, bytes):
            return self._source
        try:
            return self._source.read_bytes()
        except OSError as error:
            raise PictureError(f"{self.name}: can't be read: {_reason(error)}") from error


@cache
def _formats() -> tuple[str, ...]:
    """The formats that this Pillow was built with."""
    PIL.Image.init()
    return tuple(name for name in FORMATS if name in PIL.Image.OPEN)


def _orientation(image: PIL.Image.Image) -> int:
    # For a PNG, Pillow would decode all pixels to look for more EXIF data after them.
    return PIL.Image.Image.getexif(image).get(ORIENTATION, 1)


def _has_alpha(image: PIL.Image.Image) -> bool:
    return image.mode in ("LA", "La", "PA", "RGBA", "RGBa") or "transparency" in image.info


def _eight_bits(image: PIL.Image.Image) -> PIL.Image.Image:
    """Scale a picture with more than eight bits per value to eight; others are returned unchanged."""
    if image.mode == "F":
        raise ValueError("its values are floating-point numbers, which have no defined range")
    if not image.mode.startswith("I"):
        return image
    values = np.asarray(image).astype(np.int64)
    if values.min() < 0 or values.max() > 65535:
        raise ValueError("its values are 32-bit numbers, which have no defined range")
    return PIL.Image.fromarray(((values + 128) // 257).astype(np.uint8))


def _reason(error: Exception) -> str:
    reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return (reason.strip() or type(error).__name__).splitlines()[0]
