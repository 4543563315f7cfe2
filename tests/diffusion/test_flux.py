"""FLUX.1 schnell and dev, against FluxPipeline."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import diffusers
import flow_checkpoints
import pytest
from diffusers import FluxImg2ImgPipeline
from flow_references import assert_no_farther_in_bf16, assert_same_pictures, engine, from_pictures, rows
from picture_rows import photo

from sdbatch.diffusion.calls import lane_calls
from sdbatch.diffusion.families.flow import EULER
from sdbatch.diffusion.models.inspection import inspect_model
from sdbatch.diffusion.pictures.picture import Picture
from sdbatch.diffusion.request import Request
from sdbatch.diffusion.samplers.catalogue import EVERY_SAMPLER
from sdbatch.diffusion.validation import validate
from sdbatch.prompts.picture_cells import unread


@pytest.fixture(scope="module")
def dev(tmp_path_factory) -> Path:
    return flow_checkpoints.build_flux(tmp_path_factory.mktemp("models") / "dev")


@pytest.fixture(scope="module")
def schnell(tmp_path_factory) -> Path:
    return flow_checkpoints.build_flux(tmp_path_factory.mktemp("models") / "schnell", dev=False)


def arguments(request: Request) -> dict:
    negative = {"negative_prompt": request.negative_prompt or None}
    return {"guidance_scale": request.guidance_scale, **negative, **request.extra}


def test_dev_makes_the_pipelines_pictures(dev):
    requests = rows(inspect_model(dev).samplers, (3.5, 1.0, 7.0))
    for i in (0, 2, 3, 6):
        requests[i] = dataclasses.replace(requests[i], extra={"true_cfg_scale": 2.0 + i})
    assert_same_pictures(dev, requests, arguments)


def test_dev_from_pictures(dev):
    requests = from_pictures(rows(EULER, (3.5, 7.0), steps=(3, 5)))
    for i in (0, 2, 3, 6):
        requests[i] = dataclasses.replace(requests[i], extra={**requests[i].extra, "true_cfg_scale": 2.0 + i})
    assert_same_pictures(dev, requests, arguments, from_picture=FluxImg2ImgPipeline)


def test_a_picture_is_noised_by_schedulers_that_its_pipeline_can_use(dev):
    info = inspect_model(dev)
    extra = {"image": Picture(photo(64, 64, seed=1))}
    for sampler in info.samplers:
        request = Request("a red fox", sampler=sampler, task="image-to-image", extra=extra)
        can_noise = hasattr(getattr(diffusers, EVERY_SAMPLER[sampler].scheduler), "scale_noise")
        assert (validate(request, info) is None) is can_noise, sampler
        assert validate(dataclasses.replace(request, extra={}), info) is None
    reason = validate(Request("a", sampler="flow_unipc", task="image-to-image", extra=extra), info)
    assert reason == "sampler flow_unipc can't add noise to a picture, which image-to-image needs"


def test_a_plan_counts_the_calls_that_a_strength_leaves(dev):
    info = inspect_model(dev)
    picture = Picture(photo(64, 96, seed=1))
    request = Request("a red fox", sampler="flow_euler", steps=8, task="image-to-image", extra={"image": picture})
    for strength, calls in ((0.2, 2), (0.5, 4), (0.75, 6), (1.0, 8), (None, 5)):
        asked = dataclasses.replace(request, extra={**request.extra, "strength": strength})
        assert lane_calls(asked, info) == lane_calls(unread(asked, ["image"]), info) == calls
    reason = validate(dataclasses.replace(request, extra={**request.extra, "strength": 0.0}), info)
    assert reason == "strength 0 of 8 steps leaves no step"


def test_dev_in_bf16(dev):
    assert_no_farther_in_bf16(dev, lambda request: {"guidance_scale": request.guidance_scale}, guidance_scale=3.5)


def test_schnell_makes_the_pipelines_pictures(schnell):
    requests = rows(inspect_model(schnell).samplers, (1.0,), steps=(1, 4), negative=False)
    assert_same_pictures(schnell, requests, lambda request: {"guidance_scale": 0.0})


def test_eight_bit_weights_of_the_blocks_alone(dev):
    request = Request("a red fox", seed=1, sampler="flow_euler", steps=4, guidance_scale=3.5)
    whole, eight = engine(dev, lanes=2), engine(dev, lanes=2, quantization="int8")
    kept = eight.family.keep_whole()
    assert eight.family.denoiser.x_embedder in kept and eight.family.denoiser.proj_out in kept
    pictures = [next(iter(made.generate([request]))).pixels.astype(float) for made in (whole, eight)]
    assert 0 < abs(pictures[0] - pictures[1]).mean() < 8


def test_a_folder_tells_which_it_is(dev, schnell):
    found = [inspect_model(folder) for folder in (dev, schnell)]
    assert [info.title for info in found] == ["FLUX.1 dev", "FLUX.1 schnell"]
    assert ["guidance_scale" in info.uses for info in found] == [True, False]
    assert [(info.defaults["steps"], info.defaults["guidance_scale"]) for info in found] == [(28, 3.5), (4, 1.0)]
    assert {(info.height, info.size_multiple, info.max_tokens) for info in found} == {(1024, 16, 512)}
