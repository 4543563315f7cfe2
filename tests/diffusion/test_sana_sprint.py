"""Sana-Sprint, against SanaSprintPipeline."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import flow_checkpoints
import pytest
from diffusers import SCMScheduler
from flow_references import assert_no_farther_in_bf16, assert_same_pictures, rows

from sdbatch.diffusion.model_coefficients import ModelCoefficients
from sdbatch.diffusion.models.inspection import inspect_model
from sdbatch.diffusion.request import Request
from sdbatch.diffusion.validation import validate

SIZES = [(64, 64), (96, 64), (32, 96)]


@pytest.fixture(scope="module")
def sprint(tmp_path_factory) -> Path:
    return flow_checkpoints.build_sana(tmp_path_factory.mktemp("models") / "sprint", sprint=True)


def arguments(request: Request) -> dict:
    """The pipeline refuses its own default of intermediate_timesteps where there are not two steps."""
    return {
        "guidance_scale": request.guidance_scale,
        "use_resolution_binning": False,
        "clean_caption": False,
        "intermediate_timesteps": 1.3 if request.steps == 2 else None,
        **request.extra,
    }


def mixed(times: int) -> list[Request]:
    requests = rows(("scm",), (4.5, 1.0, 2.5), steps=(1, 2, 4), negative=False, sizes=SIZES, times=times)
    for i, extra in ((1, {"intermediate_timesteps": 1.1}), (2, {"max_timesteps": 1.5}), (4, {"max_timesteps": 1.45})):
        requests[i] = dataclasses.replace(requests[i], extra=extra)
    return requests


def test_it_makes_the_pipelines_pictures(sprint):
    assert_same_pictures(sprint, mixed(6), arguments)


@pytest.mark.long
def test_it_makes_the_pipelines_pictures_of_every_setting(sprint):
    assert_same_pictures(sprint, mixed(24), arguments)


@pytest.mark.long
def test_in_bf16(sprint):
    options = {"sampler": "scm", "steps": 2, "guidance_scale": 4.5}
    assert_no_farther_in_bf16(sprint, arguments, **options)


def test_calls_are_at_the_schedulers_angles(sprint):
    model = ModelCoefficients.of(inspect_model(sprint))
    for steps, own in ((1, None), (2, 1.3), (4, None)):
        scheduler = SCMScheduler()
        scheduler.set_timesteps(steps, intermediate_timesteps=own)
        request = Request("a red fox", sampler="scm", steps=steps)
        coefficients = model.of_row(request)
        assert coefficients.calls == steps == model.count_calls(request)
        # tan t = s / (1 - s)
        angles = scheduler.timesteps[:-1].double()
        assert abs(coefficients.timesteps / (angles.sin() / (angles.sin() + angles.cos())) - 1).max() < 1e-6
        assert coefficients.init_noise_sigma == 1 and coefficients.noise[-1] == 0


def test_an_angle_between_two_steps_belongs_to_two(sprint):
    info = inspect_model(sprint)
    two = Request("a red fox", sampler="scm", steps=2, extra={"intermediate_timesteps": 1.2})
    assert validate(two, info) is None
    reason = "intermediate_timesteps is for rows of 2 steps, not 4"
    assert validate(dataclasses.replace(two, steps=4), info) == reason
    late = dataclasses.replace(two, extra={"intermediate_timesteps": 1.2, "max_timesteps": 1.1})
    assert validate(late, info) == "intermediate_timesteps must be less than max_timesteps, 1.1, not 1.2"
    refused = validate(dataclasses.replace(two, sampler="flow_euler", extra={}), info)
    assert refused == "sampler flow_euler does not work with Sana-Sprint, which has: scm"
