"""A caption is parsed to the scene that was drawn for it."""

from __future__ import annotations

import random

import numpy as np
import pytest

from sdbatch.tiny.captions import caption
from sdbatch.tiny.reader import read
from sdbatch.tiny.scenes import draw, scenes
from sdbatch.tiny.wording import Wanted, obeyed, wanted


@pytest.mark.parametrize("count", [1, 2])
def test_a_thorough_caption_names_its_scene(count):
    rng = random.Random(count)
    for scene in rng.choices(scenes(count), k=2_000):
        things = tuple(thing.kind for thing in scene.things)
        assert wanted(caption(scene, rng, thorough=True)) == Wanted(things, scene.axis, scene.background)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("A Red circle", Wanted((("circle", "red"),), "", "")),
        ("a blue square below a green cross", Wanted((("cross", "green"), ("square", "blue")), "down", "")),
        ("red and a triangle, grey background", Wanted((("", "red"), ("triangle", "")), "", "gray")),
        ("a portrait of a lady", Wanted((), "", "")),
        ("left of", Wanted((), "", "")),
    ],
)
def test_any_wording(text, expected):
    assert wanted(text) == expected


@pytest.mark.parametrize(
    ("text", "share"),
    [
        ("a red circle left of a blue square on white", 1.0),
        ("a red circle right of a blue square on white", 1 / 6),  # the background alone
        ("a blue square and a red circle", 1.0),  # whichever comes first
        ("a red circle left of a green square on white", 4 / 6),
        ("a red circle on black", 2 / 4),  # one thing too many
        ("a white background", 1.0),
        ("something else", None),
    ],
)
def test_the_share_of_what_is_named(text, share):
    (scene,) = [
        scene
        for scene in scenes(2)
        if [thing.kind for thing in scene.things] == [("circle", "red"), ("square", "blue")]
        and (scene.axis, scene.background) == ("across", "white")
        and {thing.size for thing in scene.things} == {"big"}
    ]
    picture = (draw([scene], random.Random(0))[0] * 255).round().astype(np.uint8).transpose(1, 2, 0)
    assert obeyed(text, read(picture)) == (None if share is None else pytest.approx(share))
