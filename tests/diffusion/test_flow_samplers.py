"""Samplers of flow matching as tables, and that neither kind of sampler is used for the other kind of model."""

from __future__ import annotations

import flow_references
import numpy as np
import pytest
import torch
from test_coefficients import SHAPE, follow_draws

from sdbatch.diffusion.families import FAMILIES
from sdbatch.diffusion.families.flow import evenly_spaced, shift_by_tokens
from sdbatch.diffusion.models.inspection import inspect_model
from sdbatch.diffusion.request import Request
from sdbatch.diffusion.samplers.catalogue import EVERY_SAMPLER, FLOW_SAMPLERS, SAMPLERS, TRIGFLOW_SAMPLERS
from sdbatch.diffusion.samplers.coefficients import MAX_DEPTH, compile_coefficients
from sdbatch.diffusion.samplers.schedulers import build_scheduler, start, step
from sdbatch.diffusion.validation import validate

STATIC = {"num_train_timesteps": 1000, "shift": 3.0}
DYNAMIC = {"num_train_timesteps": 1000, "use_dynamic_shifting": True, "time_shift_type": "exponential", "shift": 3.0}


@pytest.mark.parametrize("config", [STATIC, DYNAMIC, {**DYNAMIC, "shift_terminal": 0.02}], ids=["3", "mu", "terminal"])
@pytest.mark.parametrize("sampler", FLOW_SAMPLERS)
def test_a_table_follows_its_scheduler(sampler, config):
    for steps in (2, 4, 9, 28):
        schedule = {"sigmas": evenly_spaced(steps), **shift_by_tokens(1024, config)}
        coefficients = compile_coefficients(build_scheduler(sampler, config), steps, **schedule)
        followed, outputs = follow_draws(coefficients)
        generator = torch.Generator().manual_seed(3)
        expected = torch.randn(SHAPE, generator=generator)
        scheduler = build_scheduler(sampler, config)
        for i, t in enumerate(start(scheduler, steps, **schedule)):
            expected = step(scheduler, outputs[i].float(), t, expected, generator)
        scale = expected.abs().max().item()
        assert np.abs(followed - expected.double().numpy()).max() <= 2e-4 * scale, f"{steps} steps"
        assert (
            coefficients.depth <= MAX_DEPTH
            and coefficients.init_noise_sigma == 1
            and set(coefficients.input_scale) == {1.0}
        )


def test_the_shift_is_the_pictures_own():
    """A solver changes its own configuration by mu: each table has a scheduler of its own."""
    tables = {
        tokens: compile_coefficients(build_scheduler("flow_dpmpp_2m", DYNAMIC), 4, **shift_by_tokens(tokens, DYNAMIC))
        for tokens in (256, 4096, 256)
    }
    again = compile_coefficients(build_scheduler("flow_dpmpp_2m", DYNAMIC), 4, **shift_by_tokens(256, DYNAMIC))
    assert np.array_equal(tables[256].timesteps, again.timesteps)
    assert not np.array_equal(tables[256].timesteps, tables[4096].timesteps)


def test_noise_levels_are_numpys():
    for steps in (1, 2, 3, 4, 7, 28, 50, 999):
        assert evenly_spaced(steps) == tuple(np.linspace(1.0, 1 / steps, steps).tolist())


def test_every_family_has_samplers_of_its_own_kind():
    assert set(flow_references.SCHEDULERS) == set(FLOW_SAMPLERS)
    for family in FAMILIES:
        if family.name == "sana-sprint":
            assert set(family.samplers) == set(TRIGFLOW_SAMPLERS)
            continue
        flows = family.name in (
            "sd3", "flux", "chroma", "flux2-dev", "flux2-klein", "z-image", "lumina2", "qwen-image", "sana"
        )  # fmt: skip
        kind = FLOW_SAMPLERS if flows else SAMPLERS
        assert family.samplers and set(family.samplers) <= set(kind)
        assert family.defaults["sampler"] in family.samplers


@pytest.mark.parametrize("sampler", EVERY_SAMPLER)
def test_a_sampler_of_the_other_kind_is_refused(sampler):
    reason = validate(Request("x", sampler=sampler, steps=4), inspect_model("tiny"))
    if sampler in SAMPLERS:
        assert reason is None
    else:
        assert f"sampler {sampler} does not work with Stable Diffusion 1.x and 2.x, which has: ddpm, ddim" in reason
