"""Pictures of combinations that were never trained on follow their prompts.

Each test draws 100 at each setting; with SDBATCH_OBEDIENCE=500 it draws 500, and asks for more.
"""

from __future__ import annotations

import os

import pytest

from sdbatch.tiny.reader import read
from training.tiny.judge import MODEL, describe, generate, judge, load

COUNT = int(os.environ.get("SDBATCH_OBEDIENCE", "100"))
ATTRIBUTES, RELATION = (0.95, 0.90) if COUNT >= 500 else (0.92, 0.85)


@pytest.fixture(scope="module")
def pipeline():
    return load(MODEL)


@pytest.fixture(scope="module")
def judged(pipeline):
    """Scores by sampler, steps and guidance; each setting is drawn once."""
    known = {}

    def look(*settings):
        if settings not in known:
            known[settings] = judge(pipeline, COUNT, *settings)
            print(*settings, describe(known[settings]))
        return known[settings]

    return look


def share(result, question):
    """Over all pictures; half of them show one thing, half two."""
    return (result["one"][question] + result["two"][question]) / 2


@pytest.mark.parametrize("sampler, steps", [pytest.param("ddpm", 50, marks=pytest.mark.long), ("dpmpp_2m", 20)])
def test_held_out_scenes_come_out_right(judged, sampler, steps):
    result = judged(sampler, steps, 7.5)
    for question in ("shape", "colour", "background"):
        assert share(result, question) >= ATTRIBUTES, question
    assert result["two"]["relation"] >= RELATION


@pytest.mark.long
def test_single_things_have_their_colour_and_ground(judged):
    single = judged("ddpm", 50, 7.5)["one"]
    assert single["colour"] >= 0.95 and single["background"] >= 0.95


def test_without_guidance_it_obeys_less(judged):
    alone, guided = judged("dpmpp_2m", 20, 1.0), judged("dpmpp_2m", 20, 7.5)
    assert sum(alone["two"].values()) < sum(guided["two"].values())


def test_a_negative_prompt_steers_away(pipeline):
    def reds(negative):
        pictures = generate(pipeline, ["a circle"] * 40, "dpmpp_2m", 20, 7.5, negative)
        return sum(colour == "red" for picture in pictures for _, colour in read(picture).kinds)

    assert reds("red") < reds("")
