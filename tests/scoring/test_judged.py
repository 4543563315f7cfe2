"""The engine with retries: what is kept, independence of other rows, and the effect of a bad scorer."""

from __future__ import annotations

import hashlib
from dataclasses import replace

import numpy as np
import pytest
import torch

from sdbatch.diffusion import Engine, Request
from sdbatch.errors import UsageError
from sdbatch.scoring.attempts import KeepPolicy, attempt_seed
from sdbatch.scoring.judged_engine import JudgedEngine
from sdbatch.scoring.obedience import Obedience
from sdbatch.scoring.registry import Declaration
from sdbatch.scoring.scorer import Scorer

OWN = {"prompt": "text", "steps": "number", "seed": "number"}
PROMPTS = [
    "a red circle on white",
    "a blue square left of a green cross on black",
    "a yellow triangle",
    "a purple cross above a red square",
]


class Level(Scorer):
    """The mean of a picture; `broken` prompts raise, `nan` ones have no number."""

    batch = 4

    def score(self, pictures, requests):
        if any(request.prompt == "broken" for request in requests):
            raise RuntimeError("no idea\nat all")
        return [
            {"level": float("nan") if request.prompt == "nan" else float(picture.mean())}
            for picture, request in zip(pictures, requests, strict=True)
        ]


LEVEL = Declaration("level", {"level": "number"}, lambda models: Level())
OBEDIENCE = Declaration("obedience", {"obedience": "number"}, lambda models: Obedience())


@pytest.fixture(scope="module")
def engine():
    engine = Engine("tiny", lanes=8, compile="off")
    yield engine
    engine.close()


def request(prompt, seed=0, steps=4, **more):
    return Request(prompt=prompt, seed=seed, steps=steps, sampler="ddim", **more)


def policy(keep, attempts=1, best=None, on_exhausted="best", scores=None):
    return KeepPolicy.parse(
        keep, attempts, best, on_exhausted, scores or {"level": "number", "obedience": "number"}, OWN
    )


def run(engine, requests, wanted, scorers=None):
    judged = JudgedEngine(engine, scorers or [(LEVEL, Level())], wanted)
    waiting, found = list(requests), {}
    while waiting or not judged.idle:
        while waiting and judged.room:
            judged.submit(waiting.pop(0))
        for image in judged.step():
            assert image.index not in found
            found[image.index] = image
    return [found[index] for index in range(len(requests))], judged


def of(image):
    pixels = None if image.pixels is None else hashlib.sha256(image.pixels.tobytes()).hexdigest()
    return pixels, image.attempt, image.accepted, image.scores, image.error, image.request


def test_without_a_condition_pictures_are_the_engines_own_with_scores(engine):
    requests = [request(prompt, seed) for seed, prompt in enumerate(PROMPTS)]
    plain = {image.index: image for image in engine.generate(requests)}
    first = min(plain)
    scored, _ = run(engine, requests, KeepPolicy())
    for number, image in enumerate(scored):
        assert np.array_equal(image.pixels, plain[first + number].pixels)
        assert image.request is requests[number]
        assert (image.attempt, image.accepted) == (1, None)
        assert image.scores == {"level": image.pixels.mean()}


def test_a_row_is_tried_until_it_is_kept_and_company_decides_nothing(engine):
    requests = [request(PROMPTS[number % 4], seed=number, steps=3 + number % 3) for number in range(12)]
    wanted = policy("obedience == 1", attempts=3)
    scorers = ((OBEDIENCE, Obedience()), (LEVEL, Level()))
    together, judged = run(engine, requests, wanted, scorers)
    assert {image.attempt for image in together} >= {1, 2} and {image.accepted for image in together} == {True, False}
    assert judged.counters["attempts"] > 0 and judged.counters["exhausted"] > 0
    alone = [run(engine, [each], wanted, scorers)[0][0] for each in requests[:4]]
    backwards = run(engine, requests[::-1], wanted, scorers)[0][::-1]
    assert [of(image) for image in together] == [of(image) for image in backwards]
    assert [of(image) for image in together[:4]] == [of(image) for image in alone]


def test_each_attempt_is_the_picture_of_its_recorded_seed(engine):
    (kept,), _ = run(engine, [request(PROMPTS[1], seed=7)], policy("level < 0", attempts=4, best="level"))
    tried = [attempt_seed(7, attempt) for attempt in range(1, 5)]
    pictures = list(engine.generate(request(PROMPTS[1], seed=seed) for seed in tried))
    by_seed = {image.request.seed: image.pixels for image in pictures}
    best = min(tried, key=lambda seed: by_seed[seed].mean())  # the condition wants it low
    assert kept.accepted is False and kept.request == replace(request(PROMPTS[1]), seed=best)
    assert kept.attempt == tried.index(best) + 1
    assert np.array_equal(kept.pixels, by_seed[best])


def test_exhausted_rows_fail_where_that_is_wished(engine):
    (image,), _ = run(engine, [request(PROMPTS[0])], policy("level > 999", attempts=2, on_exhausted="fail"))
    assert image.pixels is None and image.accepted is False
    assert image.error == "no picture in 2 attempts was kept (--keep 'level > 999')"


def test_a_scorer_that_raises_or_gives_no_number_costs_its_row_alone(engine):
    requests = [request(prompt) for prompt in ("broken", PROMPTS[0], "nan", PROMPTS[1])]
    images, _ = run(engine, requests, policy("level >= 0", attempts=2))
    assert images[0].error == "scorer level: RuntimeError: no idea"
    assert images[2].error == "scorer level: ValueError: level is nan"
    assert [image.accepted for image in images] == [None, True, None, True]
    assert [image.pixels is None for image in images] == [True, False, True, False]


class Greedy(Level):
    """Takes memory that the engine must release first, as many times as `shortages` says."""

    def __init__(self, shortages):
        self.shortages = shortages

    def score(self, pictures, requests):
        if self.shortages:
            self.shortages -= 1
            raise torch.OutOfMemoryError("CUDA out of memory (pretended)")
        return super().score(pictures, requests)


def test_a_scorer_without_memory_gets_the_engines_before_a_picture_is_lost(engine, monkeypatch):
    released = []
    monkeypatch.setattr(engine, "make_room", lambda: released.append(1) or len(released) <= 2)
    images, _ = run(engine, [request(prompt) for prompt in PROMPTS], KeepPolicy(), [(LEVEL, Greedy(2))])
    assert len(released) == 2 and not [image.error for image in images if image.error]
    # Nothing left to release: each picture is tried alone, and those that fail again say so.
    images, _ = run(engine, [request(prompt) for prompt in PROMPTS], KeepPolicy(), [(LEVEL, Greedy(2))])
    errors = [image.error for image in images if image.error]
    assert errors == ["scorer level: OutOfMemoryError: CUDA out of memory (pretended)"]


def test_a_row_that_the_engine_refuses_fails_as_ever(engine):
    (image,), _ = run(engine, [replace(request(PROMPTS[0]), sampler="nonesuch")], policy("level >= 0"))
    assert image.pixels is None and "nonesuch" in image.error


def test_the_seed_of_an_attempt_is_no_neighbours():
    assert attempt_seed(5, 1) == 5
    seeds = {attempt_seed(seed, attempt) for seed in range(1_000) for attempt in range(2, 6)}
    assert len(seeds) > 3_990 and all(0 <= seed < 2**32 for seed in seeds)


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        ((None, 2, None, "best"), "--attempts 2: needs --keep"),
        ((None, 1, "level", "best"), "--best level: needs --keep"),
        (("levle > 1", 1, None, "best"), "did you mean 'level'"),
        (("level > 1", 1, "steps", "best"), "is not a numeric score"),
    ],
)
def test_policies_that_make_no_sense(arguments, word):
    with pytest.raises(UsageError, match=word):
        KeepPolicy.parse(*arguments, {"level": "number"}, OWN)
