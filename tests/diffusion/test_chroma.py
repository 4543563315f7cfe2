"""Chroma, against ChromaPipeline."""

from __future__ import annotations

from pathlib import Path

import flow_checkpoints
import pytest
from diffusers import ChromaImg2ImgPipeline
from flow_references import (
    assert_entries_are_the_pipelines,
    assert_no_farther_in_bf16,
    assert_same_pictures,
    engine,
    from_pictures,
    rows,
)

from sdbatch.diffusion.families.flow import EULER
from sdbatch.diffusion.models.inspection import inspect_model
from sdbatch.diffusion.request import Request

DYNAMIC = {key: value for key, value in flow_checkpoints.DYNAMIC_SHIFT.items() if key != "shift"}


@pytest.fixture(scope="module")
def chroma(tmp_path_factory) -> Path:
    return flow_checkpoints.build_chroma(tmp_path_factory.mktemp("models") / "chroma")


def arguments(request: Request) -> dict:
    return {"guidance_scale": request.guidance_scale, "negative_prompt": request.negative_prompt or None}


def test_it_makes_the_pipelines_pictures(chroma):
    assert_same_pictures(chroma, rows(inspect_model(chroma).samplers, (5.0, 1.0, 2.5)), arguments)


@pytest.mark.long
@pytest.mark.parametrize("scheduler", [{"use_beta_sigmas": True}, flow_checkpoints.DYNAMIC_SHIFT], ids=["beta", "mu"])
def test_it_makes_the_pipelines_pictures_with_any_sampler_and_settings(scheduler, tmp_path):
    folder = flow_checkpoints.build_chroma(tmp_path / "chroma", **scheduler)
    assert_same_pictures(folder, rows(inspect_model(folder).samplers, (5.0, 1.0, 2.5), times=6), arguments)


def test_it_starts_from_pictures(chroma):
    requests = from_pictures(rows(EULER, (3.5, 1.0), steps=(3, 5)))
    assert_same_pictures(chroma, requests, arguments, from_picture=ChromaImg2ImgPipeline)


def test_in_bf16(chroma):
    assert_no_farther_in_bf16(chroma, lambda request: {"guidance_scale": request.guidance_scale}, guidance_scale=3.5)


def test_the_network_of_modulations_keeps_its_weights(chroma):
    request = Request("a red fox", seed=1, sampler="flow_euler", steps=4, guidance_scale=3.5)
    whole, eight = engine(chroma, lanes=2), engine(chroma, lanes=2, quantization="int8")
    approximator = eight.family.denoiser.distilled_guidance_layer
    assert {approximator.in_proj, *approximator.layers.modules()} <= eight.family.keep_whole()
    pictures = [next(iter(made.generate([request]))).pixels.astype(float) for made in (whole, eight)]
    assert 0 < abs(pictures[0] - pictures[1]).mean() < 8


@pytest.mark.parametrize(
    ("entries", "own"),
    [
        ({"shift": "3"}, {"shift": 3.0}),
        ({"use_beta_sigmas": "true"}, {"use_beta_sigmas": True}),
        ({name: str(value).lower() for name, value in DYNAMIC.items()}, DYNAMIC),
    ],
)
def test_entries_of_the_scheduler_are_those_of_the_pipeline(chroma, tmp_path, entries, own):
    edited = flow_checkpoints.build_chroma(tmp_path / "edited", **own)
    assert_entries_are_the_pipelines(chroma, edited, entries, arguments, 3.5)
