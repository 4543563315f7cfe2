"""Sana, against SanaPipeline."""

from __future__ import annotations

from pathlib import Path

import flow_checkpoints
import pytest
from flow_references import assert_same_pictures, rows

from sdbatch.diffusion.models.inspection import inspect_model
from sdbatch.diffusion.request import Request


@pytest.fixture(scope="module")
def sana(tmp_path_factory) -> Path:
    return flow_checkpoints.build_sana(tmp_path_factory.mktemp("models") / "sana")


def arguments(request: Request) -> dict:
    return {
        "guidance_scale": request.guidance_scale,
        "negative_prompt": request.negative_prompt,
        "use_resolution_binning": False,
        "clean_caption": False,
    }


def test_it_makes_the_pipelines_pictures(sana):
    sizes = [(64, 64), (96, 64), (32, 96)]
    requests = rows(inspect_model(sana).samplers, (4.5, 1.0, 2.5), sizes=sizes, times=1)
    assert_same_pictures(sana, requests, arguments)
