"""Compiled schedulers: coefficients follow their scheduler exactly, and what can't be compiled is refused."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler, DDPMScheduler

from benchmarks.engine_samplers import tabulated
from sdbatch.diffusion.samplers.catalogue import SAMPLERS
from sdbatch.diffusion.samplers.coefficients import MAX_DEPTH, compile_coefficients
from sdbatch.diffusion.samplers.schedulers import build_scheduler, start, step
from sdbatch.errors import SamplerError

CONFIG = {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012, "steps_offset": 1}

SHAPE = (1, 4, 8, 8)


def follow_draws(coefficients) -> tuple[np.ndarray, torch.Tensor]:
    """`tabulated` with the start latents and noise of seed 3; also returns the model outputs (calls, *SHAPE)."""
    draws = torch.Generator().manual_seed(3)
    # As a row's generator does it: float32, the start latents first, then call by call.
    latents = torch.randn(SHAPE, generator=draws).double()
    outputs = torch.randn(coefficients.calls, *SHAPE, dtype=torch.float64, generator=torch.Generator().manual_seed(4))
    noise = [torch.randn(SHAPE, generator=draws) if draw else torch.zeros(SHAPE) for draw in coefficients.draws]
    return tabulated(coefficients, latents.numpy(), outputs.numpy(), [z.double().numpy() for z in noise]), outputs


@pytest.mark.parametrize("prediction_type", ["epsilon", "v_prediction"])
@pytest.mark.parametrize("sampler", SAMPLERS)
def test_a_table_follows_its_scheduler(sampler, prediction_type):
    for steps in (1, 2, 3, 7, 20):
        scheduler = build_scheduler(sampler, CONFIG | {"prediction_type": prediction_type})
        coefficients = compile_coefficients(scheduler, steps)
        followed, outputs = follow_draws(coefficients)
        generator = torch.Generator().manual_seed(3)
        expected = torch.randn(SHAPE, generator=generator)
        for i, t in enumerate(start(scheduler, steps)):
            scheduler.scale_model_input(expected, t)
            expected = step(scheduler, outputs[i].float(), t, expected, generator)
        scale = expected.abs().max().item()
        assert np.abs(followed - expected.double().numpy()).max() <= 2e-4 * scale, f"{steps} steps"
        assert coefficients.depth <= MAX_DEPTH


@pytest.mark.parametrize(
    "scheduler",
    [
        DDIMScheduler(**CONFIG, clip_sample=True),
        DDIMScheduler(**CONFIG, clip_sample=False, thresholding=True),
        DDPMScheduler(**CONFIG, clip_sample=True),
    ],
    ids=["ddim that clips", "ddim that thresholds", "ddpm that clips"],
)
def test_what_is_not_linear_is_refused(scheduler):
    with pytest.raises(SamplerError, match="not linear"):
        compile_coefficients(scheduler, 20)


def test_learned_variance_is_refused():
    with pytest.raises(SamplerError):
        compile_coefficients(DDPMScheduler(**CONFIG, clip_sample=False, variance_type="learned_range"), 20)


def test_noise_from_elsewhere_is_refused():
    class FromElsewhere(DDIMScheduler):
        def step(self, output, t, sample, **kwargs):
            return (super().step(output, t, sample, **kwargs)[0] + torch.randn(sample.shape),)

    with pytest.raises(SamplerError, match="its generator did not draw"):
        compile_coefficients(FromElsewhere(**CONFIG, clip_sample=False), 20)


class Remembering(DDIMScheduler):
    """x' = x + Σₖ wₖ·m₍ₖ₎ over all outputs so far."""

    def set_timesteps(self, steps, device=None):
        super().set_timesteps(steps, device)
        self.outputs = []

    def step(self, output, t, sample, return_dict=True):
        self.outputs.insert(0, output)
        return (sample + sum(self.weight(k) * m for k, m in enumerate(self.outputs)),)


def test_a_history_that_never_ends_is_refused():
    class Harmonic(Remembering):
        weight = staticmethod(lambda k: 1 / (k + 1))

    with pytest.raises(SamplerError, match="looks back 19 calls"):
        compile_coefficients(Harmonic(**CONFIG), 20)


def test_a_history_that_only_seems_never_to_end_is_shortened():
    class Momentum(Remembering):
        weight = staticmethod(lambda k: 0.9**k)

    coefficients = compile_coefficients(Momentum(**CONFIG), 20)
    # x' = x + 0.9·(x − x₍₁₎) + m
    assert coefficients.depth == 1
    assert np.allclose(coefficients.x[2:], [1.9, -0.9]) and np.allclose(coefficients.m[2:], [1, 0], atol=1e-9)


def test_more_steps_than_the_scheduler_has_are_refused():
    with pytest.raises(SamplerError, match="1001 steps"):
        compile_coefficients(build_scheduler("ddpm", CONFIG), 1001)
    with pytest.raises(SamplerError, match="60 steps"):
        compile_coefficients(build_scheduler("lcm", CONFIG), 60)


@pytest.mark.parametrize("sampler", ["ddpm", "ddim", "pndm", "euler", "heun"])
def test_a_thousand_steps_are_the_whole_reverse_process(sampler):
    config = CONFIG | {"timestep_spacing": "leading"}
    coefficients = compile_coefficients(build_scheduler(sampler, config), 1000)
    assert sorted(set(coefficients.timesteps.tolist()), reverse=True) == list(range(999, -1, -1))
    # With room for the offset it stays.
    assert compile_coefficients(build_scheduler(sampler, config), 500).timesteps.min() == 1


# A run of a thousand steps takes seconds to compile. The others are tried by `make test-long`.
EVERYDAY = ("euler_karras", "dpmpp_2m", "dpmpp_2m_sde", "unipc", "lcm", "tcd")


@pytest.mark.parametrize(
    "sampler",
    [
        name if name in EVERYDAY else pytest.param(name, marks=pytest.mark.long)
        for name in SAMPLERS
        if not name.startswith("lms")
    ],
)
def test_any_number_of_steps_gives_finite_numbers_or_a_reason(sampler):
    for steps in (1, 2, 3, 4, 5, 10, 33, 50, 250, 998, 999, 1000):
        try:
            coefficients = compile_coefficients(build_scheduler(sampler, CONFIG), steps)
        except SamplerError as error:
            assert f"{steps} steps" in str(error)
            assert steps > 998 or sampler in ("lcm", "tcd")
        else:
            assert all(
                np.isfinite(numbers).all()
                for numbers in (coefficients.x, coefficients.m, coefficients.noise, coefficients.input_scale)
            )
            # EDM's networks get the logarithm of the noise level instead.
            assert sampler.startswith("edm") or (
                coefficients.timesteps.min() >= 0 and coefficients.timesteps.max() <= 999
            )
