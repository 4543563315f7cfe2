"""The world of `tiny`: one or two flat shapes on a plain ground, drawn from signed distances."""

from __future__ import annotations

import hashlib
import itertools
import random
from dataclasses import dataclass

import torch

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
        """What can be told from the picture whatever its size."""
        return self.shape, self.colour


@dataclass(frozen=True)
class Scene:
    """What a picture shows. The left or upper of two things comes first: each scene is written in one way.

    `axis` is "" for one thing, "across" (left to right) or "down" (top to bottom) for two.
    """

    things: tuple[Thing, ...]
    axis: str
    background: str


def scenes(count: int) -> list[Scene]:
    """Every scene of one thing or of two, in a fixed order. Two things differ in shape or in colour."""
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


def draw(batch: list[Scene], rng: random.Random) -> torch.Tensor:
    """Anti-aliased pictures, float32 (B, 3, 64, 64) in [0, 1]; `rng` moves the things a little."""
    canvas = torch.tensor([BACKGROUNDS[scene.background] for scene in batch])[:, :, None, None]
    canvas = canvas.expand(-1, -1, PIXELS, PIXELS).clone()
    places = [[place(scene, nth, rng) for nth in range(len(scene.things))] for scene in batch]
    for nth in (0, 1):
        rows = [row for row, scene in enumerate(batch) if nth < len(scene.things)]
        if rows:
            things = [batch[row].things[nth] for row in rows]
            shape = torch.tensor([SHAPES.index(thing.shape) for thing in things])
            colour = torch.tensor([COLOURS[thing.colour] for thing in things])[:, :, None, None]
            cover = coverage(shape, *torch.tensor([places[row][nth] for row in rows]).T)[:, None]
            canvas[rows] = canvas[rows] * (1 - cover) + colour * cover
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


def coverage(shape: torch.Tensor, x: torch.Tensor, y: torch.Tensor, radius: torch.Tensor) -> torch.Tensor:
    """How much of every pixel each shape covers, (N, 64, 64) in [0, 1], from its signed distance."""
    grid = torch.arange(PIXELS) + 0.5
    right, down = grid[None, None, :] - x[:, None, None], grid[None, :, None] - y[:, None, None]
    r = radius[:, None, None]
    across, along = right.abs(), down.abs()
    circle = torch.hypot(right, down) - r
    square = torch.maximum(across, along) - 0.88 * r
    inner = 0.62 * r  # the triangle's inscribed circle; shifted so that its bounding box is centred
    tip = down - inner / 2
    triangle = torch.maximum(0.866 * across - 0.5 * tip - inner, tip - inner)
    arm = 0.34 * r
    cross = torch.minimum(torch.maximum(across - r, along - arm), torch.maximum(along - r, across - arm))
    distance = torch.stack(torch.broadcast_tensors(circle, square, triangle, cross))
    return (0.5 - distance[shape, torch.arange(len(shape))]).clamp(0, 1)
