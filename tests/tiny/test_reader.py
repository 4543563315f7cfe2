"""The reader finds what was drawn, and nothing by chance."""

from __future__ import annotations

import random

import numpy as np
import pytest

from sdbatch.tiny.reader import read, verdict
from sdbatch.tiny.scenes import BACKGROUNDS, COLOURS, SHAPES, draw, scenes


def drawn(count: int, number: int):
    rng = random.Random(number)
    batch = rng.choices(scenes(count), k=number)
    pixels = (draw(batch, rng) * 255).round().astype(np.uint8).transpose(0, 2, 3, 1)
    return batch, [read(picture) for picture in pixels]


def shares(batch, readings):
    verdicts = [verdict(reading, scene) for reading, scene in zip(readings, batch, strict=True)]
    return {question: np.mean([v[question] for v in verdicts]) for question in verdicts[0]}


@pytest.mark.parametrize("count", [1, 2])
def test_right_on_what_was_drawn(count):
    batch, readings = drawn(count, 1_000)
    assert min(shares(batch, readings).values()) >= 0.995


def test_chance_on_shuffled_single_things():
    batch, readings = drawn(1, 1_000)
    random.Random(0).shuffle(batch)
    found = shares(batch, readings)
    for question, choices in (("shape", SHAPES), ("colour", COLOURS), ("background", BACKGROUNDS)):
        assert abs(found[question] - 1 / len(choices)) < 0.06, question


def test_chance_on_shuffled_pairs():
    batch, readings = drawn(2, 1_000)
    random.Random(0).shuffle(batch)
    found = shares(batch, readings)
    assert found["shape"] < 0.1 and found["colour"] < 0.06 and found["relation"] < 0.02


def test_noise_fog_and_emptiness_hold_nothing():
    rng = np.random.default_rng(0)
    fog = np.linspace(100, 160, 64 * 64 * 3).reshape(64, 64, 3)
    for pixels in (rng.uniform(0, 255, (64, 64, 3)), fog, np.full((64, 64, 3), 255)):
        kinds = read(pixels.astype(np.uint8)).kinds
        assert all("" in kind for kind in kinds)


def test_a_thing_too_many_is_wrong():
    rng = random.Random(4)
    pair = scenes(2)[5_000]
    pixels = (draw([pair], rng)[0] * 255).round().astype(np.uint8).transpose(1, 2, 0)
    alone = next(
        scene for scene in scenes(1) if scene.things == pair.things[:1] and scene.background == pair.background
    )
    assert not verdict(read(pixels), alone)["shape"]
