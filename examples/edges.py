"""Control images for a canny ControlNet: the edges of pictures, white on black.

    python edges.py FOLDER OUT

Needs Pillow and numpy. Edges are where the brightness changes by more than `LEAST` of 255 from one pixel to the next.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
from PIL import Image, ImageFilter

LEAST = 24


def edges(image: Image.Image) -> Image.Image:
    """White lines on black, in RGB, of the picture's size."""
    brightness = np.asarray(image.convert("L").filter(ImageFilter.GaussianBlur(1)), dtype=np.float32)
    down, right = np.gradient(brightness)
    found = np.hypot(down, right) > LEAST / 2  # np.gradient looks two pixels far
    return Image.fromarray(np.where(found, 255, 0).astype(np.uint8)).convert("RGB")


def main(folder: str, out: str) -> None:
    Path(out).mkdir(parents=True, exist_ok=True)
    for path in sorted(Path(folder).iterdir()):
        if path.suffix.lower() in (".png", ".jpg", ".jpeg", ".webp"):
            edges(Image.open(path)).save(Path(out) / f"{path.stem}.png")


if __name__ == "__main__":
    main(*sys.argv[1:])
