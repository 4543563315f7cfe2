"""Pictures of combinations that were never trained on show what was asked for.

The everyday suite draws 100; `SDBATCH_OBEDIENCE=500` draws as many as are asked for and raises the bar.
"""

from __future__ import annotations

import os

import pytest

from sdbatch.tiny.judge import MODEL, describe, generate, judge, load
from sdbatch.tiny.reader import read

COUNT = int(os.environ.get("SDBATCH_OBEDIENCE", "100"))
ATTRIBUTES, RELATION = (0.95, 0.90) if COUNT >= 500 else (0.92, 0.85)


@pytest.fixture(scope="module")
def pipeline():
    return load(MODEL)


def judged(pipeline, *settings):
    result = judge(pipeline, COUNT, *settings)
    print(describe(result))
    return result


def share(result, question):
    """Over all pictures, half of which show one thing and half two."""
    return (result["one"][question] + result["two"][question]) / 2


@pytest.mark.parametrize("sampler, steps", [("ddpm", 50), ("dpmpp_2m", 20)])
def test_held_out_scenes_come_out_right(pipeline, sampler, steps):
    result = judged(pipeline, sampler, steps, 7.5)
    for question in ("shape", "colour", "background"):
        assert share(result, question) >= ATTRIBUTES, question
    assert result["two"]["relation"] >= RELATION


def test_guidance_helps(pipeline):
    guided, alone = (judged(pipeline, "dpmpp_2m", 20, scale) for scale in (7.5, 1.0))
    assert share(alone, "shape") < share(guided, "shape")


def test_a_negative_prompt_steers_away(pipeline):
    def reds(negative):
        pictures = generate(pipeline, ["a circle"] * 100, "dpmpp_2m", 20, 7.5, negative=negative)
        return sum(colour == "red" for picture in pictures for _, colour in read(picture).kinds)

    assert reds("red") < reds("")
