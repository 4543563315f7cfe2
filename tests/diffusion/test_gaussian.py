"""DDPM against mathematics: for data of a Gaussian distribution the best noise predictor is known.

For x₀ ~ N(μ, σ²) and xₜ = √ᾱ·x₀ + √(1−ᾱ)·ε it is E[ε | xₜ] = √(1−ᾱ)·(xₜ − √ᾱ·μ) / (ᾱσ² + 1 − ᾱ). Every step
is then x' = A·x + B + s·z, and the mean and covariance after it follow in closed form (Ho et al. 2020).
"""

from __future__ import annotations

import numpy as np
import pytest
import torch
from diffusers import DDPMScheduler

from sdbatch.diffusion.lanes import Row
from sdbatch.diffusion.samplers.coefficients import compile_coefficients
from sdbatch.diffusion.slots import Slots, numbers_of

LANES, SHAPE = 8, (4, 48, 48)
SAMPLES = LANES * int(np.prod(SHAPE))


class Gaussian:
    """The forward process for data N(mean, std²), and its reverse in closed form."""

    def __init__(self, mean: float, std: float, steps: int):
        self.mean, self.std = mean, std
        self.scheduler = DDPMScheduler(
            beta_schedule="scaled_linear",
            beta_start=0.00085,
            beta_end=0.012,
            clip_sample=False,
            steps_offset=0,
        )
        self.coefficients = compile_coefficients(self.scheduler, steps)
        betas = np.linspace(0.00085**0.5, 0.012**0.5, 1000) ** 2
        self.alphas_cumprod = np.cumprod(1 - betas)
        self.stride = 1000 // steps

    def noise(self, x: torch.Tensor, t: int) -> torch.Tensor:
        """E[ε | xₜ = x]."""
        a = self.alphas_cumprod[t]
        return (1 - a) ** 0.5 * (x - a**0.5 * self.mean) / (a * self.std**2 + 1 - a)

    def step(self, t: int) -> tuple[float, float, float]:
        """A, B and s of the step from t, by equations 6 and 7 of Ho et al. and x₀ = (x − √(1−ᾱ)·ε) / √ᾱ."""
        a = self.alphas_cumprod[t]
        previous = self.alphas_cumprod[t - self.stride] if t >= self.stride else 1.0
        alpha = a / previous
        at_x0 = previous**0.5 * (1 - alpha) / (1 - a)
        at_x = alpha**0.5 * (1 - previous) / (1 - a)
        slope = (1 - a) ** 0.5 / (a * self.std**2 + 1 - a)
        x0_slope = (1 - (1 - a) ** 0.5 * slope) / a**0.5
        x0_offset = (1 - a) ** 0.5 * slope * a**0.5 * self.mean / a**0.5
        variance = (1 - previous) / (1 - a) * (1 - alpha)
        return at_x0 * x0_slope + at_x, at_x0 * x0_offset, variance**0.5

    def sample(self):
        """The engine's passes; yields the timestep and the latents before and after each."""
        slots = Slots(SHAPE, LANES, torch.device("cpu"))
        generator = torch.Generator().manual_seed(0)
        rows = [Row(index=i, shape=SHAPE[1:], calls=self.coefficients.calls, paired_calls=0) for i in range(LANES)]
        for lane, row in enumerate(rows):
            row.lane = row.partner = row.third = lane
            slots.admit(row, torch.randn(SHAPE, generator=generator), [])
        for t in self.scheduler.timesteps.tolist():
            numbers = numbers_of(((row, self.coefficients, [1.0] * row.calls, 0.0, 1.0) for row in rows), LANES)
            latents, timesteps = slots.inputs(numbers)
            assert (timesteps == t).all()
            noise = torch.randn(LANES, *SHAPE, generator=generator)
            slots.advance(self.noise(latents, t), numbers, noise, depth=0, renormalise=None)
            for row in rows:
                row.call += 1
            yield t, latents, slots.latents


@pytest.mark.parametrize(("mean", "std"), [(0.0, 1.0), (1.0, 0.5), (-2.0, 0.05)])
def test_mean_and_covariance_after_every_step(mean, std):
    gaussian = Gaussian(mean, std, steps=50)
    expected_mean, variance = 0.0, 1.0
    for t, before, after in gaussian.sample():
        a, b, s = gaussian.step(t)
        expected_mean, covariance, variance = a * expected_mean + b, a * variance, a**2 * variance + s**2
        x, y = before.flatten().double(), after.flatten().double()
        # Six standard errors of a mean, a variance and a covariance for this number of samples.
        assert abs(y.mean() - expected_mean) < 6 * (variance / SAMPLES) ** 0.5
        assert abs(y.var() / variance - 1) < 6 * (2 / SAMPLES) ** 0.5
        spread = (x.var() * variance + covariance**2) ** 0.5
        assert abs(((x - x.mean()) * (y - y.mean())).mean() - covariance) < 6 * spread / SAMPLES**0.5


@pytest.mark.parametrize(("mean", "std", "closed_form"), [(0.0, 1.0, 0.996), (1.0, 0.5, 0.990)])
def test_all_training_timesteps_give_the_datas_distribution(mean, std, closed_form):
    gaussian = Gaussian(mean, std, steps=1000)
    variance = 1.0
    for t in gaussian.scheduler.timesteps.tolist():
        a, _, s = gaussian.step(t)
        variance = a**2 * variance + s**2
    assert variance**0.5 / std == pytest.approx(closed_form, abs=5e-4)
    *_, (_, _, samples) = gaussian.sample()
    assert samples.std().item() == pytest.approx(std, rel=0.02)
    assert samples.std().item() == pytest.approx(variance**0.5, rel=0.01)
    assert samples.mean().item() == pytest.approx(mean, abs=0.02)
