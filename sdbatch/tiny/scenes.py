"""The scenes of `tiny`: one or two flat shapes on a plain background, drawn from signed distances."""

from __future__ import annotations

import hashlib
import itertools
import random
from dataclasses import dataclass

import numpy as np

__all__ = [
    "BACKGROUNDS",
    "COLOURS",
    "PIXELS",
    "SHAPES",
    "SIZES",
    "Scene",
    "Thing",
    "draw",
    "held_out",
    "scenes",
]

PIXELS = 64
SHAPES = ("circle", "square", "triangle", "cross")
SIZES = ("small", "big")
COLOURS = {
    "red": (0.90, 0.08, 0.12),
    "orange": (1.00, 0.53, 0.00),
    "yellow": (1.00, 0.92, 0.10),
    "green": (0.05, 0.65, 0.22),
    "blue": (0.08, 0.25, 0.90),
    "purple": (0.55, 0.10, 0.70),
}
BACKGROUNDS = {
    "white": (1.0, 1.0, 1.0),
    "black": (0.0, 0.0, 0.0),
    "gray": (0.5, 0.5, 0.5),
    "pink": (1.0, 0.75, 0.82),
}
RADII = {1: {"small": 12.0, "big": 21.0}, 2: {"small": 9.0, "big": 13.5}}


@dataclass(frozen=True)
class Thing:
    """One object of a scene."""

    shape: str
    colour: str
    size: str

    @property
    def kind(self) -> tuple[str, str]:
        """Shape and colour, which a picture shows regardless of the thing's size."""
        return self.shape, self.colour


@dataclass(frozen=True)
class Scene:
    """A picture's content. The left or upper of two things comes first, so each scene has one form.

    `axis` is "" for one thing, "across" (left to right) or "down" (top to bottom) for two.
    """

    things: tuple[Thing, ...]
    axis: str
    background: str


def scenes(count: int) -> list[Scene]:
    """All scenes of one or two things, in a fixed order. Two things differ in shape or in colour."""
    things = [Thing(*kind) for kind in itertools.product(SHAPES, COLOURS, SIZES)]
    if count == 1:
        return [Scene((thing,), "", background) for thing in things for background in BACKGROUNDS]
    return [
        Scene((first, second), axis, background)
        for first, second in itertools.product(things, things)
        if first.kind != second.kind
        for axis in ("across", "down")
        for background in BACKGROUNDS
    ]


def held_out(scene: Scene) -> bool:
    """Whether the scene belongs to the tenth that training never sees.

    Sizes do not count: shapes, colours, places and background are held out in all sizes or in none.
    """
    combination = "|".join((*(f"{thing.colour} {thing.shape}" for thing in scene.things), scene.axis, scene.background))
    return int.from_bytes(hashlib.sha256(combination.encode()).digest()[:8], "big") % 10 == 0


def draw(batch: list[Scene], rng: random.Random) -> np.ndarray:
    """Anti-aliased pictures, float32 (B, 3, 64, 64) in [0, 1]; `rng` moves the things a little."""
    canvas = np.empty((len(batch), 3, PIXELS, PIXELS), dtype=np.float32)
    canvas[:] = np.array([BACKGROUNDS[scene.background] for scene in batch], dtype=np.float32)[:, :, None, None]
    places = [[place(scene, nth, rng) for nth in range(len(scene.things))] for scene in batch]
    for nth in (0, 1):
        rows = [row for row, scene in enumerate(batch) if nth < len(scene.things)]
        if rows:
            things = [batch[row].things[nth] for row in rows]
            shapes = np.array([SHAPES.index(thing.shape) for thing in things])
            colours = np.array([COLOURS[thing.colour] for thing in things], dtype=np.float32)[:, :, None, None]
            x, y, radius = np.array([places[row][nth] for row in rows], dtype=np.float32).T
            cover = coverage(shapes, x, y, radius)[:, None]
            canvas[rows] = canvas[rows] * (1 - cover) + colours * cover
    return canvas


def place(scene: Scene, nth: int, rng: random.Random) -> tuple[float, float, float]:
    """Centre (x, y) and radius in pixels of the scene's nth thing."""
    radius = RADII[len(scene.things)][scene.things[nth].size] * rng.uniform(0.96, 1.04)
    middle = PIXELS / 2
    aside = (-15.5, 15.5)[nth] + rng.uniform(-1, 1) if scene.axis else 0.0
    wobble = rng.uniform(-3, 3)
    if scene.axis == "across":
        return middle + aside, middle + wobble, radius
    if scene.axis == "down":
        return middle + wobble, middle + aside, radius
    return middle + wobble, middle + rng.uniform(-3, 3), radius


def coverage(shapes: np.ndarray, x: np.ndarray, y: np.ndarray, radius: np.ndarray) -> np.ndarray:
    """The share of every pixel that each shape covers, float32 (N, 64, 64) in [0, 1], from its signed distance.

    Args:
        shapes: indices in `SHAPES`, int (N,).
        x, y, radius: in pixels, float32 (N,).
    """
    grid = np.arange(PIXELS, dtype=np.float32) + np.float32(0.5)
    right, down = grid[None, None, :] - x[:, None, None], grid[None, :, None] - y[:, None, None]
    r = radius[:, None, None]
    across, along = np.abs(right), np.abs(down)
    circle = np.hypot(right, down) - r
    square = np.maximum(across, along) - np.float32(0.88) * r
    inner = np.float32(0.62) * r  # the triangle's inscribed circle; shifted so that its bounding box is centred
    tip = down - inner / 2
    triangle = np.maximum(np.float32(0.866) * across - tip / 2 - inner, tip - inner)
    arm = np.float32(0.34) * r
    cross = np.minimum(np.maximum(across - r, along - arm), np.maximum(along - r, across - arm))
    distances = np.stack(np.broadcast_arrays(circle, square, triangle, cross))
    return (np.float32(0.5) - distances[shapes, np.arange(len(shapes))]).clip(0, 1)
