"""Errors in a request are reported before a model is loaded."""

from __future__ import annotations

import dataclasses
import math

import pytest

from sdbatch.diffusion.models.inspection import inspect_model
from sdbatch.diffusion.request import Request
from sdbatch.diffusion.validation import validate


@pytest.fixture(scope="module")
def info(sd):
    return inspect_model(sd)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"prompt": ""}, "empty"),
        ({"prompt": " \n\t"}, "empty"),
        ({"prompt": None}, "empty"),
        ({"prompt": "\ud83d"}, "surrogate"),
        ({"negative_prompt": 3}, "must be text"),
        ({"seed": -1}, "between 0"),
        ({"seed": 2**64}, "between 0"),
        ({"seed": 1.5}, "integer"),
        ({"sampler": "eulr"}, "did you mean"),
        ({"sampler": 9}, "DiffusionDB"),
        ({"steps": 0}, "at least 1"),
        ({"steps": True}, "integer"),
        ({"steps": 1001}, "more than the 1000"),
        ({"steps": 51, "sampler": "lcm"}, "more than the 50"),
        ({"guidance_scale": math.nan}, "finite"),
        ({"guidance_scale": math.inf}, "finite"),
        ({"guidance_scale": "high"}, "number"),
        ({"guidance_start": 0.5, "guidance_stop": 0.5}, "less than guidance_stop"),
        ({"guidance_stop": 1.5}, "from 0 to 1"),
        ({"guidance_start": -0.1}, "from 0 to 1"),
        ({"guidance_stop": math.nan}, "finite"),
        ({"height": 65}, "multiple of 8"),
        ({"height": 0}, "at least 8"),
        ({"width": -8}, "at least 8"),
        ({"width": 8192, "height": 8192}, "too large"),
    ],
)
def test_bad_requests_are_told_why(info, changes, reason):
    request = dataclasses.replace(Request("a cat"), **changes)
    assert reason in validate(request, info)


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"guidance_scale": 0},
        {"guidance_scale": -3.5},
        {"seed": 2**64 - 1},
        {"height": 8, "width": 1024},
        {"steps": 1000},
        {"sampler": "DPM++ 2M Karras"},
    ],
)
def test_good_requests_pass(info, changes):
    assert validate(dataclasses.replace(Request("a cat"), **changes), info) is None


def test_anything_else_is_no_request(info):
    assert "not a Request" in validate("a cat", info)


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"task": "juggling"}, "'juggling'"),
        ({"extra": {"strength": 0.5}}, "strength is not a setting of text-to-image"),
    ],
)
def test_a_setting_of_another_kind_of_row_is_refused(change, word, info):
    reason = validate(Request("a", **change), info)
    assert reason is not None and word in reason


def test_a_size_that_is_too_large_is_named_as_width_and_height():
    reason = validate(Request("a cat", height=8, width=8_000_000), inspect_model("tiny"))
    assert reason is not None and reason.startswith("8000000x8 is too large")
