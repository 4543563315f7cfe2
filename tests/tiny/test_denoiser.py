"""The denoiser's training data."""

from __future__ import annotations

import torch

from training.tiny.denoiser import BOUND, FREE, MISTOLD, mistold_share, new_scheduler, overshoot, signal_to_noise


def test_the_excess_never_drowns_the_noise():
    generator = torch.Generator().manual_seed(0)
    scheduler, timesteps = new_scheduler(), torch.arange(0, 1000, 4)
    latents = torch.randn(250, 8, 8, 8, generator=generator)
    excess = overshoot(latents, scheduler, timesteps, generator)
    as_noise = excess * signal_to_noise(scheduler, timesteps).sqrt()[:, None, None, None]
    sizes = as_noise.std((1, 2, 3))
    assert sizes.max() < 1.5
    assert 0.55 < (sizes == 0).float().mean() < 0.75


def test_training_ends_in_pure_noise():
    """Else the ground's brightness would leak into the start, and sampling start from the wrong one."""
    assert signal_to_noise(new_scheduler(), torch.tensor(999)).sqrt() < 0.01


def test_captions_are_all_wrong_where_the_picture_can_be_seen():
    shares = mistold_share(torch.arange(1000))
    assert (shares[: FREE + 1] == 1).all()
    assert torch.allclose(shares[BOUND:], torch.tensor(MISTOLD))
    assert (shares.diff() <= 0).all()
