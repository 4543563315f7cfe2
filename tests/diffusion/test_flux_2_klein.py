"""FLUX.2 klein, distilled and base, against Flux2KleinPipeline."""

from __future__ import annotations

import flow_checkpoints
import pytest
from flow_references import assert_no_farther_in_bf16, assert_same_pictures, rows

from sdbatch.diffusion.models.inspection import inspect_model


@pytest.mark.parametrize("distilled", [False, True])
def test_it_makes_the_pipelines_pictures(distilled, tmp_path):
    folder = flow_checkpoints.build_klein(tmp_path / "klein", distilled=distilled)
    info = inspect_model(folder)
    assert info.title == ("FLUX.2 klein" if distilled else "FLUX.2 klein base")
    requests = rows(
        info.samplers, (1.0,) if distilled else (4.0, 1.0, 2.5), negative=False, times=1 if distilled else 2
    )
    assert_same_pictures(folder, requests, lambda request: {"guidance_scale": request.guidance_scale})


@pytest.mark.long
def test_in_bf16(tmp_path):
    folder = flow_checkpoints.build_klein(tmp_path / "klein", distilled=True)
    assert_no_farther_in_bf16(folder, lambda request: {"guidance_scale": 1.0}, guidance_scale=1.0)
