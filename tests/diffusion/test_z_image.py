"""Z-Image, against ZImagePipeline."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import flow_checkpoints
import pytest
from diffusers import ZImageImg2ImgPipeline
from flow_references import assert_same_pictures, engine, from_pictures, rows
from picture_rows import photo

from sdbatch.diffusion.engine import Engine
from sdbatch.diffusion.models.inspection import inspect_model
from sdbatch.diffusion.pictures.picture import Picture
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


def test_it_starts_from_pictures(z_image):
    requests = from_pictures(rows(inspect_model(z_image).samplers, (4.0, 0.0), steps=(3, 5)))[:9]
    for i, extra in ((0, {"cfg_normalization": 1.0}), (4, {"cfg_truncation": 0.6})):
        requests[i] = dataclasses.replace(requests[i], extra={**requests[i].extra, **extra})
    assert_same_pictures(z_image, requests, arguments, from_picture=ZImageImg2ImgPipeline)


def test_a_picture_is_no_larger_than_its_places(z_image):
    info = dataclasses.replace(inspect_model(z_image), max_side=96)
    made = Engine(dataclasses.replace(info, height=64, width=64), lanes=2)
    wide = Request(
        "a red fox",
        sampler="flow_euler",
        steps=1,
        task="image-to-image",
        extra={"image": Picture(photo(64, 128, seed=1))},
    )
    (image,) = made.generate([wide])
    assert image.error == "width must be at most 96, not 128"


def test_rows_share_a_pass_with_texts_of_their_own_length_class(z_image):
    family = engine(z_image, lanes=2).family
    short = Request("a red fox", guidance_scale=0.0)
    long = dataclasses.replace(short, prompt="word " * 60)
    assert (family.lane_key(short), family.lane_key(long)) == (64, 256)
    assert family.lane_key(dataclasses.replace(short, guidance_scale=1.0, negative_prompt=long.prompt)) == 256
