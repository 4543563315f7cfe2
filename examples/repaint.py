"""Image to image and inpainting with `tiny`: a red circle becomes blue, and gets a green cross beside it.

    python examples/repaint.py repaint.png

Writes one picture: in each row an input on the left, and on the right what is made of it.
"""

from __future__ import annotations

import random
import sys

import numpy as np
from PIL import Image

from sdbatch import Engine, Request
from sdbatch.diffusion import Picture
from sdbatch.tiny.scenes import Scene, Thing, draw

SIZE, GAP, SCALE = 64, 8, 3


def drawn(*things: Thing, axis: str = "") -> Image.Image:
    """A picture of things on white."""
    pixels = draw([Scene(things, axis, "white")], random.Random(1))[0]
    return Image.fromarray((pixels.transpose(1, 2, 0) * 255).round().astype(np.uint8))


def main(path: str) -> list[np.ndarray]:
    """Write the picture; returns the pixels of the two results."""
    circle = drawn(Thing("circle", "red", "big"))
    pair = drawn(Thing("circle", "red", "small"), Thing("square", "blue", "small"), axis="across")
    right_half = Image.new("L", (SIZE, SIZE))
    right_half.paste(255, (SIZE // 2, 0, SIZE, SIZE))
    settings = {"sampler": "ddim", "steps": 50}
    requests = [
        Request(
            "a blue circle on white",
            seed=1,
            task="image-to-image",
            extra={"image": Picture(circle), "strength": 0.6},
            **settings,
        ),
        Request(
            "a small red circle to the left of a small green cross on white",
            seed=1,
            task="inpainting",
            extra={"image": Picture(pair), "mask_image": Picture(right_half)},
            **settings,
        ),
    ]
    results = [made.pixels for made in Engine("tiny", lanes=4).generate(requests)]
    sheet = Image.new("RGB", (2 * SIZE + 3 * GAP, 2 * SIZE + 3 * GAP), "#d8d8d4")
    for row, (before, after) in enumerate(zip((circle, pair), map(Image.fromarray, results), strict=True)):
        sheet.paste(before, (GAP, GAP + row * (SIZE + GAP)))
        sheet.paste(after, (2 * GAP + SIZE, GAP + row * (SIZE + GAP)))
    sheet.resize((SCALE * sheet.width, SCALE * sheet.height), Image.Resampling.LANCZOS).save(path)
    return results


if __name__ == "__main__":
    main(sys.argv[1])
