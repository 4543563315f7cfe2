"""Pictures that rows are given: told by their content, sized from their headers, decoded when they are needed."""

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

# Pillow's own limit, above which a small file may well have been made to fill the memory.
MAX_PIXELS = 89_478_485
# What people keep pictures in. Pillow would also start Ghostscript for an EPS.
FORMATS = ("AVIF", "BMP", "GIF", "JPEG", "JPEG2000", "PNG", "PPM", "TIFF", "WEBP")
ORIENTATION = 0x0112
TURNED = range(5, 9)
# A mask is cut at half: black is kept, white is painted. Grey this far from both, on more than this share of it,
# means something that no cut can say.
GREY, MAX_GREY_SHARE = range(26, 230), 0.25


class Picture:
    """A picture, encoded or decoded. Holds what it was made from and no more.

    Args:
        source: an encoded picture, the path of a file that holds one, or a PIL image.
        name: what messages call it; by default its path.
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
        """What tells it from other pictures: a SHA-256, in hex, of its file, or of its pixels if it is a PIL image.

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
        """Height and width in pixels as it is to be seen, from its headers alone.

        Raises:
            PictureError: it is no picture that can be read, or has more than `MAX_PIXELS`.
        """
        with self._opened() as image:
            width, height = image.size
            try:
                is_turned = _orientation(image) in TURNED
            except Exception as error:  # whatever is in its EXIF
                raise PictureError(f"{self.name}: its EXIF can't be read: {_reason(error)}") from error
            return (width, height) if is_turned else (height, width)

    def load(self) -> PIL.Image.Image:
        """Its first frame as diffusers' `load_image` gives it, turned as its EXIF says, in RGB.

        Two differences, where `load_image` loses what is in the picture: 16 bits are scaled to 8 and not clipped,
        and what has no scale (32 bits) is refused.

        Raises:
            PictureError: it can't be decoded.
        """
        return self._decoded()[0]

    def load_mask(self) -> PIL.Image.Image:
        """The same of a picture that is a mask: white is painted, black is kept.

        Raises:
            PictureError: it can't be decoded, has transparency, which could be the mask, or is mostly grey.
        """
        image, opaque = self._decoded()
        if not opaque:
            raise PictureError(
                f"{self.name}: a mask with transparency, which might be the mask or not; "
                "save it without: white is painted, black is kept"
            )
        shades = image.convert("L").histogram()
        if sum(shades[GREY.start : GREY.stop]) > MAX_GREY_SHARE * sum(shades):
            raise PictureError(
                f"{self.name}: a soft mask (mostly grey), but a mask is cut at half: white is painted, black is kept"
            )
        return image

    def _decoded(self) -> tuple[PIL.Image.Image, bool]:
        """In RGB, and whether all of it is opaque."""
        with self._opened() as opened:
            try:
                image = PIL.ImageOps.exif_transpose(opened)
                image.load()
                image = _eight_bits(image)
                opaque = not _has_alpha(image) or image.convert("RGBA").getchannel("A").getextrema() == (255, 255)
                rgb = image.convert("RGB")
            except Exception as error:  # decoders raise anything over a damaged picture
                raise PictureError(f"{self.name}: can't be decoded: {_reason(error)}") from error
        if (rgb.height, rgb.width) != self.size:
            raise PictureError(f"{self.name}: its orientation stands behind its pixels; save it upright")
        return rgb, opaque

    def _opened(self) -> PIL.Image.Image:
        source = self._source
        if isinstance(source, PIL.Image.Image):
            return source.copy()  # for the caller to close
        try:
            image = PIL.Image.open(io.BytesIO(source) if isinstance(source, bytes) else source, formats=_formats())
        except PIL.UnidentifiedImageError:
            raise PictureError(f"{self.name}: is no picture of a known format ({', '.join(FORMATS)})") from None
        except FileNotFoundError:
            raise PictureError(f"{self.name}: no such file") from None
        except Exception as error:
            raise PictureError(f"{self.name}: can't be read: {_reason(error)}") from error
        if image.width * image.height > MAX_PIXELS:
            image.close()
            raise PictureError(
                f"{self.name}: {image.width}x{image.height} is more than the {MAX_PIXELS:,} pixels that are read"
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
    """Those that this Pillow was built with."""
    PIL.Image.init()
    return tuple(name for name in FORMATS if name in PIL.Image.OPEN)


def _orientation(image: PIL.Image.Image) -> int:
    # Of a PNG, Pillow would decode all pixels to look for more EXIF behind them.
    return PIL.Image.Image.getexif(image).get(ORIENTATION, 1)


def _has_alpha(image: PIL.Image.Image) -> bool:
    return image.mode in ("LA", "La", "PA", "RGBA", "RGBa") or "transparency" in image.info


def _eight_bits(image: PIL.Image.Image) -> PIL.Image.Image:
    """A picture of more than eight bits a value, scaled; others as they are."""
    if image.mode == "F":
        raise ValueError("its values are floating-point numbers, which have no agreed scale")
    if not image.mode.startswith("I"):
        return image
    values = np.asarray(image).astype(np.int64)
    if values.min() < 0 or values.max() > 65535:
        raise ValueError("its values are 32-bit numbers, which have no agreed scale")
    return PIL.Image.fromarray(((values + 128) // 257).astype(np.uint8))


def _reason(error: Exception) -> str:
    reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return (reason.strip() or type(error).__name__).splitlines()[0]
