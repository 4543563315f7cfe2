"""Z-Image, against ZImagePipeline."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import flow_checkpoints
import pytest
from flow_references import assert_same_pictures, engine, rows

from sdbatch.diffusion.models.inspection import inspect_model
from sdbatch.diffusion.request import Request


@pytest.fixture(scope="module")
def z_image(tmp_path_factory) -> Path:
    return flow_checkpoints.build_z_image(tmp_path_factory.mktemp("models") / "z-image")


def arguments(request: Request) -> dict:
    guidance = {"guidance_scale": request.guidance_scale, "negative_prompt": request.negative_prompt}
    return guidance | dict(request.extra)


def test_it_makes_the_pipelines_pictures(z_image):
    requests = rows(inspect_model(z_image).samplers, (4.0, 0.0, 0.5))
    for i, extra in ((0, {"cfg_normalization": 1.0}), (4, {"cfg_truncation": 0.6}), (5, {"cfg_normalization": 0.9})):
        requests[i] = dataclasses.replace(requests[i], extra=extra)
    assert_same_pictures(z_image, requests, arguments)


def test_rows_share_a_pass_with_texts_of_their_own_length_class(z_image):
    family = engine(z_image, lanes=2).family
    short = Request("a red fox", guidance_scale=0.0)
    long = dataclasses.replace(short, prompt="word " * 60)
    assert (family.lane_key(short), family.lane_key(long)) == (64, 256)
    assert family.lane_key(dataclasses.replace(short, guidance_scale=1.0, negative_prompt=long.prompt)) == 256
