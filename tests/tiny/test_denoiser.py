"""What the denoiser trains on."""

from __future__ import annotations

import pytest
import torch

from sdbatch.tiny.denoiser import new_scheduler, overshoot, signal_to_noise, twin
from sdbatch.tiny.scenes import held_out
from sdbatch.tiny.training import training_scenes


@pytest.mark.parametrize("count", [1, 2])
def test_a_twin_differs_in_colours_or_ground_and_is_never_held_out(count):
    generator = torch.Generator().manual_seed(0)
    for scene in training_scenes(count)[:: 7 * count**4]:
        other = twin(scene, generator)
        assert not held_out(other)
        assert [(t.shape, t.size) for t in other.things] == [(t.shape, t.size) for t in scene.things]
        assert other.background == scene.background or other.things == scene.things


def test_the_excess_never_drowns_the_noise():
    generator = torch.Generator().manual_seed(0)
    scheduler, timesteps = new_scheduler(), torch.arange(0, 1000, 4)
    latents, twins = torch.randn(2, 250, 8, 8, 8, generator=generator)
    excess = overshoot(latents, twins, scheduler, timesteps, generator)
    as_noise = excess * signal_to_noise(scheduler, timesteps).sqrt()[:, None, None, None]
    sizes = as_noise.std((1, 2, 3))
    assert sizes.max() < 2.5
    assert 0.4 < (sizes == 0).float().mean() < 0.6


def test_training_ends_in_pure_noise():
    """Else the ground's brightness would leak into the start, and sampling start from the wrong one."""
    assert signal_to_noise(new_scheduler(), torch.tensor(999)).sqrt() < 0.01
