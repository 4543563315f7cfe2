"""Stable Diffusion 3 and 3.5, against StableDiffusion3Pipeline."""

from __future__ import annotations

from pathlib import Path

import flow_checkpoints
import pytest
from diffusers import StableDiffusion3Img2ImgPipeline
from flow_references import assert_no_farther_in_bf16, assert_same_pictures, from_pictures, rows

from sdbatch.diffusion.models.inspection import inspect_model
from sdbatch.diffusion.request import Request
from sdbatch.diffusion.validation import validate


@pytest.fixture(scope="module")
def sd3(tmp_path_factory) -> Path:
    return flow_checkpoints.build_sd3(tmp_path_factory.mktemp("models") / "sd3")


def arguments(request: Request) -> dict:
    return {"guidance_scale": request.guidance_scale, "negative_prompt": request.negative_prompt}


def test_it_makes_the_pipelines_pictures(sd3):
    assert_same_pictures(sd3, rows(inspect_model(sd3).samplers, (7.0, 1.0, 3.0)), arguments)


def test_from_pictures(sd3):
    samplers = ("flow_euler", "flow_euler_stochastic", "flow_euler_karras")
    requests = from_pictures(rows(samplers, (7.0, 3.0), steps=(3, 5)))
    assert_same_pictures(sd3, requests, arguments, from_picture=StableDiffusion3Img2ImgPipeline)


def test_in_bf16(sd3):
    assert_no_farther_in_bf16(sd3, arguments, guidance_scale=4.0)


def test_a_shift_by_the_pictures_size(tmp_path):
    folder = flow_checkpoints.build_sd3(tmp_path / "dynamic", use_dynamic_shifting=True)
    samplers = inspect_model(folder).samplers
    assert "flow_heun" not in samplers
    assert_same_pictures(folder, rows(samplers, (4.0,), steps=(3,), times=1), arguments)


def test_a_size_that_it_has_no_positions_for(sd3):
    info = inspect_model(sd3)
    request = Request("x", sampler="flow_euler", height=400, width=64)
    assert validate(request, info) == "height must be at most 384, not 400"
    assert validate(Request("x", sampler="flow_euler", height=384, width=64), info) is None
