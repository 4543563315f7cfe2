"""FLUX.1 schnell and dev, against FluxPipeline."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import flow_checkpoints
import pytest
from flow_references import assert_no_farther_in_bf16, assert_same_pictures, engine, rows

from sdbatch.diffusion.models.inspection import inspect_model
from sdbatch.diffusion.request import Request


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
