"""The invisible watermark of Stable Diffusion's repositories: method dwtDct of the package invisible-watermark.

Its bits are in the chroma U of the picture: a Haar transform halves the plane; every 4×4 block of the halved plane
carries one bit, in the part of 36 into which its largest coefficient falls. The bits are repeated until all blocks have
one.

`watermarked` gives the bytes that `imwatermark.WatermarkEncoder` gives, and `read_bits` is its decoder, with two
exceptions: chroma outside 0 to 255 is clipped, where the package wraps around, and small pictures are accepted as long
as they have a block for each bit; the package refuses less than 256×256 pixels.
"""

from __future__ import annotations

import numpy as np

__all__ = ["SDXL", "lack_of_room", "read_bits", "read_text", "watermarked"]

SDXL = "sdxl"
# What `diffusers.pipelines.stable_diffusion_xl.watermark` writes.
SDXL_MESSAGE = 0b101100111110110010010000011110111011000110011110

SCALE = 36
BLOCK = 4  # coefficients, which are 8 pixels
ROOT = np.sqrt(0.5)  # the Haar filter's two taps

# OpenCV's conversions between RGB and YUV: of whole numbers in units of 2**-14, and of real numbers.
WHOLE_LUMA, WHOLE_TO_U, WHOLE_TO_V = (4899, 9617, 1868), 8061, 14369
WHOLE_TO_RED, WHOLE_TO_GREEN, WHOLE_TO_BLUE = 18678, (-6472, -9519), 33292
REAL_LUMA, REAL_TO_U, REAL_TO_V = (0.299, 0.587, 0.114), 0.492, 0.877
REAL_TO_RED, REAL_TO_GREEN, REAL_TO_BLUE = 1.14, (-0.395, -0.581), 2.032


def watermarked(pixels: np.ndarray, text: str | None) -> np.ndarray:
    """The picture with a watermark; without a text the same picture.

    Args:
        pixels: uint8 (H, W, 3), RGB, with room for the text: see `lack_of_room`.
        text: the content, as UTF-8. "sdxl" stands for the 48 bits that diffusers' SDXL pipelines write, which
            calculate in real numbers instead of bytes.

    Returns:
        uint8 (H, W, 3).
    """
    if text is None:
        return pixels
    return _marked_as_real(pixels, _bits(text)) if text == SDXL else _marked_as_whole(pixels, _bits(text))


def lack_of_room(height: int, width: int, text: str | None) -> str | None:
    """Why a picture of this size cannot hold the text; None if it can."""
    if text is None:
        return None
    blocks, bits = (height // (2 * BLOCK)) * (width // (2 * BLOCK)), len(_bits(text))
    if blocks >= bits:
        return None
    return f"watermark {text!r} has {bits} bits; a picture of {width}x{height} has room for {blocks}"


def read_bits(pixels: np.ndarray, count: int) -> np.ndarray:
    """The `count` bits that a picture, uint8 (H, W, 3), carries: bool (count,), by majority of their repetitions."""
    blocks = _blocks(_haar(_inner(_whole_yuv(pixels)[1]))[0])
    found = np.abs(np.take_along_axis(blocks, _largest(blocks), -1)[:, 0]) % SCALE > SCALE / 2
    return np.array([found[bit::count].mean() * 255 > 127 for bit in range(count)])


def read_text(pixels: np.ndarray, length: int) -> bytes:
    """The text of `length` bytes that a picture carries; noise if it carries none."""
    return np.packbits(read_bits(pixels, 8 * length)).tobytes()


def _bits(text: str) -> np.ndarray:
    if text == SDXL:
        return np.array([int(bit) for bit in f"{SDXL_MESSAGE:b}"])
    return np.unpackbits(np.frombuffer(text.encode(), np.uint8))


def _marked_as_whole(pixels: np.ndarray, bits: np.ndarray) -> np.ndarray:
    luma, u, v = _whole_yuv(pixels)
    inner = _inner(u)
    inner[:] = np.clip(_with_bits(inner.astype(np.float64), bits), 0, 255)  # whole numbers: cut, as the package does
    u, v = u - 128, v - 128
    green = u * WHOLE_TO_GREEN[0] + v * WHOLE_TO_GREEN[1]
    planes = [luma + _descaled(part) for part in (v * WHOLE_TO_RED, green, u * WHOLE_TO_BLUE)]
    return np.clip(np.stack(planes, -1), 0, 255).astype(np.uint8)


def _whole_yuv(pixels: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """int32 planes (H, W), U and V around 128."""
    red, green, blue = np.moveaxis(pixels.astype(np.int32), -1, 0)
    luma = _descaled(red * WHOLE_LUMA[0] + green * WHOLE_LUMA[1] + blue * WHOLE_LUMA[2])
    u, v = ((blue - luma) * WHOLE_TO_U, (red - luma) * WHOLE_TO_V)
    return luma, *(np.clip(_descaled(part + (128 << 14)), 0, 255) for part in (u, v))


def _descaled(plane: np.ndarray) -> np.ndarray:
    return (plane + (1 << 13)) >> 14


def _marked_as_real(pixels: np.ndarray, bits: np.ndarray) -> np.ndarray:
    red, green, blue = np.moveaxis(pixels.astype(np.float32), -1, 0)
    luma = red * REAL_LUMA[0] + green * REAL_LUMA[1] + blue * REAL_LUMA[2]
    # OpenCV's U and V lie around 0.5, also where the picture goes up to 255.
    u, v = (blue - luma) * REAL_TO_U + 0.5, (red - luma) * REAL_TO_V
    inner = _inner(u)
    inner[:] = _with_bits(inner, bits)
    u -= 0.5
    planes = [luma + v * REAL_TO_RED, luma + u * REAL_TO_GREEN[0] + v * REAL_TO_GREEN[1], luma + u * REAL_TO_BLUE]
    return np.clip(np.stack(planes, -1).round(), 0, 255).astype(np.uint8)


def _inner(plane: np.ndarray) -> np.ndarray:
    """The part of a plane that has whole blocks of 4×4 pixels."""
    height, width = (length // BLOCK * BLOCK for length in plane.shape)
    return plane[:height, :width]


def _with_bits(plane: np.ndarray, bits: np.ndarray) -> np.ndarray:
    """The plane with the bits in its blocks, one after the other."""
    low, vertical, horizontal, diagonal = _haar(plane)
    blocks = _blocks(low)
    at = _largest(blocks)
    value = np.take_along_axis(blocks, at, -1)
    bit = np.resize(bits, len(blocks))[:, None]
    size = (np.abs(value) // SCALE + 0.25 + 0.5 * bit) * SCALE
    np.put_along_axis(blocks, at, np.where(value >= 0, size, -size).astype(blocks.dtype), -1)
    rows, columns = (length // BLOCK for length in low.shape)
    low = low.copy()
    low[: rows * BLOCK, : columns * BLOCK] = (
        blocks.reshape(rows, columns, BLOCK, BLOCK).swapaxes(1, 2).reshape(rows * BLOCK, columns * BLOCK)
    )
    # The package exchanges the two details when it transforms back; pictures with its mark are made that way.
    return _inverse_haar(low, horizontal, vertical, diagonal)


def _blocks(low: np.ndarray) -> np.ndarray:
    """The 4×4 blocks of a plane, row by row: (blocks, 16)."""
    rows, columns = (length // BLOCK for length in low.shape)
    whole = low[: rows * BLOCK, : columns * BLOCK]
    return whole.reshape(rows, BLOCK, columns, BLOCK).swapaxes(1, 2).reshape(rows * columns, BLOCK * BLOCK).copy()


def _largest(blocks: np.ndarray) -> np.ndarray:
    """The position of each block's largest coefficient but the first: (blocks, 1)."""
    return np.abs(blocks[:, 1:]).argmax(-1)[:, None] + 1


def _haar(plane: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """The Haar transform: mean, details along the rows' axis, along the columns' axis, along both; each (H/2, W/2)."""
    root = plane.dtype.type(ROOT) if plane.dtype.kind == "f" else ROOT
    low, high = (root * plane[1::2] + root * plane[::2], -root * plane[1::2] + root * plane[::2])
    mean, across = root * low[:, 1::2] + root * low[:, ::2], -root * low[:, 1::2] + root * low[:, ::2]
    down, both = root * high[:, 1::2] + root * high[:, ::2], -root * high[:, 1::2] + root * high[:, ::2]
    return mean, down, across, both


def _inverse_haar(mean: np.ndarray, down: np.ndarray, across: np.ndarray, both: np.ndarray) -> np.ndarray:
    root = mean.dtype.type(ROOT)
    low, high = (np.empty((len(mean), 2 * mean.shape[1]), mean.dtype) for _ in range(2))
    for plane, a, d in ((low, mean, across), (high, down, both)):
        plane[:, ::2], plane[:, 1::2] = root * a + root * d, root * a - root * d
    plane = np.empty((2 * len(low), low.shape[1]), mean.dtype)
    plane[::2], plane[1::2] = root * low + root * high, root * low - root * high
    return plane
