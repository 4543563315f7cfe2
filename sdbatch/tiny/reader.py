"""Reads a picture back from its pixels alone: connected patches, nearest colours, outlines by template."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from PIL import Image
from scipy import ndimage

from sdbatch.tiny.scenes import BACKGROUNDS, COLOURS, PIXELS, SHAPES, Scene, coverage

__all__ = ["Reading", "read", "verdict"]

MIN_PIXELS = 24  # pixels; smaller patches are ignored
CONTRAST = 0.22  # distance in RGB from which a pixel is not background
MAX_DISTANCE = 0.40  # a colour further than this from every colour of the palette has no name
TEMPLATE = 32


@dataclass(frozen=True)
class Reading:
    """The recognised content: (shape, colour) of all things, left to right or top to bottom; "" if none fits."""

    kinds: tuple[tuple[str, str], ...]
    axis: str
    background: str


def read(pixels: np.ndarray) -> Reading:
    """The reading of one picture, uint8 (64, 64, 3)."""
    picture = pixels.astype(np.float32) / 255
    border = np.concatenate([picture[:2].reshape(-1, 3), picture[-2:].reshape(-1, 3), picture[:, :2].reshape(-1, 3)])
    ground = np.median(border, axis=0)
    contrast = np.linalg.norm(picture - ground, axis=-1)
    labels, _ = ndimage.label(contrast > CONTRAST)
    things = []
    for label in range(1, labels.max() + 1):
        patch = labels == label
        if patch.sum() >= MIN_PIXELS:
            things.append(read_thing(picture, contrast, patch))
    (kinds, axis) = arrange(things)
    return Reading(kinds, axis, nearest(ground, BACKGROUNDS))


def read_thing(picture: np.ndarray, contrast: np.ndarray, patch: np.ndarray) -> tuple[float, float, tuple[str, str]]:
    """Centre (x, y) and kind of one patch; its outline runs halfway between thing and background."""
    core = ndimage.binary_erosion(patch)
    inside = core if core.any() else patch
    colour = np.median(picture[inside], axis=0)
    patch = patch & (contrast > 0.5 * np.median(contrast[inside]))
    rows, columns = np.nonzero(patch)
    box = patch[rows.min() : rows.max() + 1, columns.min() : columns.max() + 1]
    return columns.mean(), rows.mean(), (outline(box), nearest(colour, COLOURS))


def arrange(things: list[tuple[float, float, tuple[str, str]]]) -> tuple[tuple[tuple[str, str], ...], str]:
    """The kinds in reading order, and the axis along which two things are placed."""
    if len(things) != 2:
        return tuple(kind for _, _, kind in things), ""
    (x0, y0, _), (x1, y1, _) = things
    across = abs(x0 - x1) > abs(y0 - y1)
    things = sorted(things, key=lambda thing: thing[0] if across else thing[1])
    return tuple(kind for _, _, kind in things), "across" if across else "down"


def nearest(colour: np.ndarray, palette: dict[str, tuple[float, float, float]]) -> str:
    distance, name = min((float(np.linalg.norm(colour - np.array(rgb))), name) for name, rgb in palette.items())
    return name if distance < MAX_DISTANCE else ""


def fit(box: np.ndarray) -> np.ndarray:
    """A mask of any size, stretched to the template's."""
    image = Image.fromarray(box.astype(np.uint8) * 255).resize((TEMPLATE, TEMPLATE), Image.Resampling.BILINEAR)
    return np.asarray(image, dtype=np.float32) / 255


def templates() -> dict[str, np.ndarray]:
    middle, radius = np.array([PIXELS / 2], np.float32), np.array([20], np.float32)
    drawn = {}
    for index, shape in enumerate(SHAPES):
        mask = coverage(np.array([index]), middle, middle, radius)[0] > 0.5
        rows, columns = np.nonzero(mask)
        drawn[shape] = fit(mask[rows.min() : rows.max() + 1, columns.min() : columns.max() + 1])
    return drawn


TEMPLATES = templates()


def outline(box: np.ndarray) -> str:
    """The shape whose template overlaps most with the mask (intersection over union), or "" below 0.7."""
    mask = fit(box)
    overlap, shape = max(
        (float(np.minimum(mask, drawn).sum() / np.maximum(mask, drawn).sum()), shape)
        for shape, drawn in TEMPLATES.items()
    )
    return shape if overlap > 0.7 else ""


def verdict(reading: Reading, scene: Scene) -> dict[str, bool]:
    """The parts of the scene that the picture shows; all things must be right, without additional ones.

    `relation`, only for two things: both are right and in their places.
    """
    shapes = [shape for shape, _ in reading.kinds]
    colours = [colour for _, colour in reading.kinds]
    right = {
        "shape": shapes == [thing.shape for thing in scene.things],
        "colour": colours == [thing.colour for thing in scene.things],
        "background": reading.background == scene.background,
    }
    if scene.axis:
        right["relation"] = reading.axis == scene.axis and right["shape"] and right["colour"]
    return right
