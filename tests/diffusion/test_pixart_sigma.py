"""PixArt-Σ, against PixArtSigmaPipeline."""

from __future__ import annotations

from pathlib import Path

import flow_checkpoints
import pytest
from flow_references import assert_same_pictures, rows

from sdbatch.diffusion.models.inspection import inspect_model
from sdbatch.diffusion.request import Request


@pytest.fixture(scope="module")
def pixart(tmp_path_factory) -> Path:
    return flow_checkpoints.build_pixart(tmp_path_factory.mktemp("models") / "pixart")


def arguments(request: Request) -> dict:
    return {
        "guidance_scale": request.guidance_scale,
        "negative_prompt": request.negative_prompt,
        "use_resolution_binning": False,
        "clean_caption": False,
    }


def test_it_makes_the_pipelines_pictures(pixart):
    requests = rows(inspect_model(pixart).samplers, (4.5, 1.0, 2.5), steps=(3, 5), times=1)
    assert_same_pictures(pixart, requests, arguments)
