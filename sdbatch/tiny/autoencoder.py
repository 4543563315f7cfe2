"""The first stage: an AutoencoderKL that turns 64×64 pictures into 8×8×8 latents and back."""

from __future__ import annotations

from pathlib import Path

import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL

from .scenes import draw
from .training import Run, fast_arithmetic, training_scenes

__all__ = ["new_autoencoder", "train_autoencoder"]

BATCH = 32
PEAK_RATE = 1.5e-3
KL_WEIGHT = 2.5e-3
LATENT_NOISE = 0.1  # of a unit latent, added before decoding: a sampled latent is never exact


def new_autoencoder() -> AutoencoderKL:
    return AutoencoderKL(
        block_out_channels=(16, 32, 64, 96),
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        layers_per_block=1,
        latent_channels=8,
        norm_num_groups=8,
        sample_size=64,
        mid_block_add_attention=False,
    )


def train_autoencoder(work: Path, steps: int, seed: int) -> tuple[AutoencoderKL, dict[str, float]]:
    """The autoencoder with averaged weights after `steps` batches, and its record; resumes from `work`."""
    torch.manual_seed(seed)
    model = new_autoencoder().to(memory_format=torch.channels_last)
    run = Run("autoencoder", model, work, steps, BATCH, seed, PEAK_RATE)
    pools = training_scenes(1), training_scenes(2)
    for _, rng, generator in run:
        pictures = draw([rng.choice(pools[rng.random() < 0.65]) for _ in range(BATCH)], rng)
        error, divergence = losses(model, pictures, generator)
        run.update(error + KL_WEIGHT * divergence, {"error": error.item(), "kl": divergence.item()})
    model.load_state_dict(run.average)
    return model.eval(), run.record()


def losses(
    model: AutoencoderKL, pictures: torch.Tensor, generator: torch.Generator
) -> tuple[torch.Tensor, torch.Tensor]:
    """Absolute error in [-1, 1], weighted towards things and edges; divergence from unit latents, a value.

    The divergence is there to keep latents smooth, since the denoiser will have to land on them.
    """
    weight = importance(pictures)
    target = pictures.mul(2).sub(1).contiguous(memory_format=torch.channels_last)
    with fast_arithmetic(model):
        posterior = model.encode(target).latent_dist
        mean, spread = posterior.mean.float(), posterior.std.float()
        noise = torch.randn(mean.shape, generator=generator)
        latents = mean + torch.sqrt(spread**2 + LATENT_NOISE**2) * noise
        decoded = model.decode(latents.contiguous(memory_format=torch.channels_last)).sample
    error = ((decoded.float() - target).abs() * weight).mean()
    return error, posterior.kl().float().mean() / mean[0].numel()


def importance(pictures: torch.Tensor) -> torch.Tensor:
    """Weights (B, 1, 64, 64): 1 on the ground, 3 on things, 6 where a thing meets it."""
    ground = pictures[:, :, :1, :1]
    thing = ((pictures - ground).abs().amax(1, keepdim=True) > 0.02).float()
    near = F.max_pool2d(thing, 3, 1, 1)
    inside = 1 - F.max_pool2d(1 - thing, 3, 1, 1)
    return 1 + 2 * thing + 3 * (near - inside).clamp(0, 1)
