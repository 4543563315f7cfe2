"""Lumina 2, against Lumina2Pipeline."""

from __future__ import annotations

import dataclasses
import inspect
from pathlib import Path

import flow_checkpoints
import pytest
from diffusers import Lumina2Pipeline
from flow_references import (
    assert_entries_are_the_pipelines,
    assert_no_farther_in_bf16,
    assert_same_pictures,
    engine,
    rows,
)

from sdbatch.diffusion.families.lumina_2 import INSTRUCTION
from sdbatch.diffusion.models.inspection import inspect_model
from sdbatch.diffusion.request import Request
from sdbatch.diffusion.validation import validate
from sdbatch.errors import ModelError


@pytest.fixture(scope="module")
def lumina_2(tmp_path_factory) -> Path:
    return flow_checkpoints.build_lumina_2(tmp_path_factory.mktemp("models") / "lumina2")


def arguments(request: Request) -> dict:
    return {
        "guidance_scale": request.guidance_scale,
        "negative_prompt": request.negative_prompt,
        "cfg_trunc_ratio": request.guidance_stop,
        "cfg_normalization": bool(request.extra.get("cfg_normalization", 1.0)),
    }


def mixed(folder: Path, times: int) -> list[Request]:
    requests = rows(inspect_model(folder).samplers, (4.0, 1.0, 2.5), times=times)
    for i, changes in (
        (0, {"guidance_stop": 0.5}),
        (1, {"extra": {"cfg_normalization": 0.0}}),
        (4, {"guidance_stop": 0.75, "extra": {"cfg_normalization": 0.0}}),
    ):
        requests[i] = dataclasses.replace(requests[i], **changes)
    return requests


def test_it_makes_the_pipelines_pictures(lumina_2):
    assert_same_pictures(lumina_2, mixed(lumina_2, 2), arguments)


@pytest.mark.long
def test_it_makes_the_pipelines_pictures_with_every_sampler_and_setting(lumina_2):
    assert_same_pictures(lumina_2, mixed(lumina_2, 9), arguments)


def test_in_bf16(lumina_2):
    assert_no_farther_in_bf16(lumina_2, arguments, guidance_scale=4.0)


def test_the_instruction_before_a_prompt_is_the_pipelines():
    sources = inspect.getsource(Lumina2Pipeline)
    sentence, _, mark = INSTRUCTION.partition(". ")
    assert f'"{sentence}."' in sources and f'" {mark}"' in sources


def test_rows_share_a_pass_with_texts_of_their_own_length_class(lumina_2):
    family = engine(lumina_2, lanes=2).family
    short = Request("a red fox", guidance_scale=1.0)
    assert (family.lane_key(short), family.lane_key(dataclasses.replace(short, prompt="word " * 200))) == (64, 256)
    assert family.lane_key(dataclasses.replace(short, guidance_scale=2.0, negative_prompt="dull " * 90)) == 256


def test_norms_are_kept_or_not(lumina_2):
    row = Request("a red fox", sampler="flow_euler", steps=2, extra={"cfg_normalization": 0.5})
    assert validate(row, inspect_model(lumina_2)) == "cfg_normalization is 0 or 1 with Lumina 2, not 0.5"


@pytest.mark.parametrize(
    ("entries", "own"),
    [
        ({"shift": "1.5"}, {"shift": 1.5}),
        ({"shift": 12}, {"shift": 12.0}),
        ({"use_beta_sigmas": "true"}, {"use_beta_sigmas": True}),
    ],
)
def test_entries_of_the_scheduler_are_those_of_the_pipeline(lumina_2, tmp_path, entries, own):
    edited = flow_checkpoints.build_lumina_2(tmp_path / "edited", **own)
    assert_entries_are_the_pipelines(lumina_2, edited, entries, arguments, 4.0)


def test_a_shift_by_the_picture_is_refused_as_an_entry(lumina_2):
    with pytest.raises(ModelError, match=r"--scheduler-config use_dynamic_shifting=true.*has no shift by the picture"):
        inspect_model(lumina_2, scheduler_config={"use_dynamic_shifting": "true"})
