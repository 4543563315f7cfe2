"""Measures how long encoding a picture takes, and how many bytes its file has, by format and `--compression`.

    python -m benchmarks.picture_files [PICTURE …]

Pictures are given files, cut to 512 × 512, and three that are made here: blotches of all sizes (1/f noise, as in
photographs) with and without grain, and a picture of `tiny`, enlarged. Prints a table: milliseconds of CPU time (the
best of five), kilobytes.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from sdbatch.diffusion import Engine, Request
from sdbatch.diffusion.request import ROW_FIELDS
from sdbatch.output.encoding import encode
from sdbatch.output.metadata import Outcome

SIDE, ROUNDS = 512, 5
REQUEST = Request("a red circle", height=SIDE, width=SIDE)
ROW = Outcome(REQUEST).row("tiny", ROW_FIELDS, {}) | {"model_hash": None}
FORMS = (
    ("png", None, "small"),
    ("png", None, "fast"),
    ("webp", None, "small"),
    ("webp", None, "fast"),
    ("webp", 90, None),
    ("jpeg", 95, None),
)


def blotches(grain: float) -> np.ndarray:
    source = np.random.default_rng(0)
    total = np.zeros((SIDE, SIDE, 3))
    for side in (4, 8, 16, 32, 64, 128, 256):
        layers = source.normal(size=(3, side, side)).astype(np.float32)
        layers = 0.7 * layers.mean(axis=0) + 0.3 * layers  # colours of photographs go together
        big = [Image.fromarray(layer).resize((SIDE, SIDE), Image.Resampling.BICUBIC) for layer in layers]
        total += np.stack([np.asarray(layer) for layer in big], axis=-1) / side
    spread = (total - total.min()) / (total.max() - total.min()) * 255
    return (spread + source.normal(scale=grain, size=spread.shape)).clip(0, 255).astype(np.uint8)


def pictures(paths: Sequence[str]) -> Iterator[tuple[str, np.ndarray]]:
    for path in paths:
        with Image.open(path) as picture:
            yield Path(path).stem, np.asarray(ImageOps.fit(picture.convert("RGB"), (SIDE, SIDE)))
    yield "1/f noise", blotches(0.7)
    yield "1/f noise with grain", blotches(8)
    (made,) = Engine("tiny", lanes=2, compile="off").generate([Request("a red circle", steps=20, sampler="ddim")])
    yield "`tiny`, enlarged", np.asarray(Image.fromarray(made.pixels).resize((SIDE, SIDE), Image.Resampling.BICUBIC))


def measured(pixels: np.ndarray, form: str, quality: int | None, compression: str | None) -> tuple[float, float]:
    """Milliseconds and kilobytes."""
    times = []
    for _ in range(ROUNDS):
        started = time.process_time()
        data = encode(pixels, form, quality, compression or "fast", ROW)
        times.append(time.process_time() - started)
    return min(times) * 1e3, len(data) / 1e3


def main() -> None:
    heads = [f"{form.upper()} {compression or quality}" for form, quality, compression in FORMS]
    print(f"| 512 × 512 | {' | '.join(heads)} |")
    print("|---" * (len(FORMS) + 1) + "|")
    for name, pixels in pictures(sys.argv[1:]):
        found = (measured(pixels, *form) for form in FORMS)
        print(f"| {name} | {' | '.join(f'{ms:.1f} ms, {kb:.0f} kB' for ms, kb in found)} |", flush=True)


if __name__ == "__main__":
    main()
