"""Qwen-Image, against QwenImagePipeline."""

from __future__ import annotations

from pathlib import Path

import flow_checkpoints
import pytest
from diffusers import QwenImageImg2ImgPipeline
from flow_references import assert_same_pictures, from_pictures, rows

from sdbatch.diffusion.calls import lane_calls
from sdbatch.diffusion.families.flow import EULER
from sdbatch.diffusion.models.inspection import inspect_model
from sdbatch.diffusion.request import Request
from sdbatch.errors import SamplerError


@pytest.fixture(scope="module")
def qwen(tmp_path_factory) -> Path:
    return flow_checkpoints.build_qwen_image(tmp_path_factory.mktemp("models") / "qwen-image")


def arguments(request: Request) -> dict:
    return {"true_cfg_scale": request.guidance_scale, "negative_prompt": request.negative_prompt or None}


def test_it_makes_the_pipelines_pictures(qwen):
    assert_same_pictures(qwen, rows(inspect_model(qwen).samplers, (4.0, 1.0, 2.5)), arguments)


def test_it_starts_from_pictures(qwen):
    requests = from_pictures(rows(EULER, (4.0, 1.0), steps=(3, 5)))
    assert_same_pictures(qwen, requests, arguments, from_picture=QwenImageImg2ImgPipeline)


def test_guidance_needs_a_negative_prompt(qwen):
    info = inspect_model(qwen)
    plain = Request("a", sampler="flow_euler", steps=4, guidance_scale=4.0)
    assert lane_calls(plain, info) == 4
    assert lane_calls(Request("a", " ", sampler="flow_euler", steps=4, guidance_scale=4.0), info) == 8


def test_one_step_is_refused(qwen):
    # The pipeline stretches its noise levels to end above 0, which one of them cannot do.
    with pytest.raises(SamplerError, match="1 steps"):
        lane_calls(Request("a", sampler="flow_euler", steps=1), inspect_model(qwen))
