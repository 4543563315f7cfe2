"""Counting a sampler's calls without torch: the rules agree with the compiled tables, or give no number."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace

import pytest

from sdbatch.diffusion import Request, inspect_model
from sdbatch.diffusion.calls import lane_calls, needs_coefficients
from sdbatch.diffusion.samplers.call_counts import MAX_KNOWN_STEPS, known_calls
from sdbatch.diffusion.samplers.catalogue import SAMPLERS
from sdbatch.diffusion.samplers.coefficients import compile_coefficients
from sdbatch.diffusion.samplers.schedulers import build_scheduler, start
from sdbatch.errors import SamplerError

STABLE_DIFFUSION = {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012}
COMMON = [
    STABLE_DIFFUSION | {"steps_offset": 1, "skip_prk_steps": True, "set_alpha_to_one": False, "trained_betas": None},
    STABLE_DIFFUSION | {"prediction_type": "v_prediction", "timestep_spacing": "leading", "steps_offset": 1},
    STABLE_DIFFUSION | {"timestep_spacing": "linspace", "use_karras_sigmas": False, "interpolation_type": "linear"},
    {"beta_schedule": "linear", "beta_start": 0.0001, "beta_end": 0.02, "variance_type": "fixed_small"},
]
UNCOMMON = [
    {"num_train_timesteps": 500},
    {"timestep_spacing": "trailing"},
    {"beta_schedule": "squaredcos_cap_v2"},
    {"beta_end": 0.5},
    {"rescale_betas_zero_snr": True},
    {"trained_betas": [0.1, 0.2]},
    {"beta_start": [0.00085]},
    {"use_karras_sigmas": True},
    {"steps_offset": True},
    {"original_inference_steps": 100},
    {"variance_type": "learned_range"},
    {"an_entry_of_the_future": 1},
]


@pytest.mark.parametrize("config", COMMON, ids=["sd 1", "sd 2", "sdxl", "ddpm"])
@pytest.mark.parametrize("sampler", SAMPLERS)
def test_a_rule_counts_as_the_table_does(sampler, config):
    scheduler = build_scheduler(sampler, config)
    # Compiling takes time with the square of the steps, integrating for LMS more than that.
    for steps in (1, 2, 3, 4, 5, 7, 20) if sampler.startswith("lms") else (1, 2, 3, 4, 5, 7, 20, 50):
        calls = known_calls(sampler, steps, config)
        if calls is None:
            assert (sampler, steps) in (("dpm2_a", 2), ("dpm2_a_karras", 2))
        else:
            assert calls == compile_coefficients(scheduler, steps).calls, f"{steps} steps"


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_a_rule_counts_as_the_schedule_does_for_all_numbers_of_steps(sampler):
    scheduler = build_scheduler(sampler, COMMON[0])
    most = 50 if sampler in ("lcm", "tcd") else MAX_KNOWN_STEPS
    # Schedules that are searched or interpolated take a tenth of a second each.
    every = 1 if len(SAMPLERS[sampler].config) == 0 and not sampler.startswith("dpm2") else 17
    for steps in (*range(3, most, every), most):
        assert known_calls(sampler, steps, COMMON[0]) == len(start(scheduler, steps)), f"{steps} steps"


@pytest.mark.parametrize("sampler", ["ddim", "pndm", "euler_a", "heun", "dpmpp_3m", "unipc", "lcm"])
def test_the_most_steps_that_a_rule_counts_have_a_table(sampler):
    most = 50 if sampler == "lcm" else MAX_KNOWN_STEPS
    assert (
        known_calls(sampler, most, COMMON[0]) == compile_coefficients(build_scheduler(sampler, COMMON[0]), most).calls
    )
    assert known_calls(sampler, most + 1, COMMON[0]) is None


@pytest.mark.parametrize("entry", UNCOMMON, ids=lambda entry: "".join(entry))
def test_of_an_uncommon_configuration_only_the_table_tells(entry):
    assert all(known_calls(sampler, 20, STABLE_DIFFUSION | entry) is None for sampler in SAMPLERS)
    assert known_calls("ddim", 20, {"num_train_timesteps": 1000}) is None


def test_an_unknown_sampler_is_compiled():
    assert known_calls("a sampler of the future", 20, COMMON[0]) is None


def copied(info, folder, **scheduler):
    """The model with entries of its scheduler's configuration changed."""
    path = shutil.copytree(info.folder, folder) / "scheduler" / "scheduler_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | scheduler))
    return inspect_model(folder)


def test_an_uncommon_model_is_planned_by_its_tables(tmp_path):
    info = inspect_model("tiny")
    request = Request("a red circle", sampler="ddim", steps=3, guidance_scale=1)
    many = replace(request, steps=MAX_KNOWN_STEPS + 1)
    assert not needs_coefficients(request, info) and needs_coefficients(many, info)
    trailing = copied(info, tmp_path / "trailing", timestep_spacing="trailing")
    assert needs_coefficients(request, trailing) and lane_calls(request, trailing) == 3
    # With these betas there are no coefficients, and the plan must report it.
    with pytest.raises(SamplerError, match="can't do 2 steps: it computes numbers that are not finite"):
        linspace = copied(info, tmp_path / "linspace", timestep_spacing="linspace", steps_offset=1)
        lane_calls(replace(request, sampler="dpm2_a", steps=2), linspace)
    learned = copied(info, tmp_path / "learned", variance_type="learned_range")
    with pytest.raises(SamplerError):
        lane_calls(replace(request, sampler="ddpm"), learned)
