"""The first stage: an AutoencoderKL that turns 64×64 pictures into 8×8×8 latents and back."""

from __future__ import annotations

from pathlib import Path

import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL
from torch import nn

from training.tiny.drawing import draw
from training.tiny.training import Run, fast_arithmetic, training_scenes

__all__ = ["new_autoencoder", "train_autoencoder", "train_decoder"]

BATCH = 32
PEAK_RATE = 1.5e-3
KL_WEIGHT = 2.5e-3
LATENT_NOISE = 0.1  # added to latents before they are decoded: sampled ones are never exact
ROUGH_NOISE = 0.25


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


def train_decoder(work: Path, model: AutoencoderKL, steps: int, seed: int) -> dict[str, float]:
    """Train the decoder further, on rougher latents like those from a denoiser; returns the record.

    The encoder stays unchanged, so that a denoiser trained on its latents still fits.
    """
    model.to(memory_format=torch.channels_last)
    decoding = nn.ModuleList([model.post_quant_conv, model.decoder])
    run = Run("decoder", decoding, work, steps, BATCH, seed, PEAK_RATE / 2)
    pools = training_scenes(1), training_scenes(2)
    for _, rng, generator in run:
        pictures = draw([rng.choice(pools[rng.random() < 0.65]) for _ in range(BATCH)], rng)
        with torch.no_grad():
            mean, spread = encode(model, pictures)
        error = decoding_error(model, pictures, mean, spread, ROUGH_NOISE, generator)
        run.update(error, {"error": error.item()})
    decoding.load_state_dict(run.average)
    return run.record()


def losses(
    model: AutoencoderKL, pictures: torch.Tensor, generator: torch.Generator
) -> tuple[torch.Tensor, torch.Tensor]:
    """The decoding error, and the divergence from unit latents, per value.

    The divergence keeps latents smooth, so that the denoiser can reach them.
    """
    mean, spread = encode(model, pictures)
    error = decoding_error(model, pictures, mean, spread, LATENT_NOISE, generator)
    divergence = 0.5 * (mean**2 + spread**2 - 1) - spread.log()
    return error, divergence.mean()


def encode(model: AutoencoderKL, pictures: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean and standard deviation, float32 (B, 8, 8, 8), of the latents of pictures in [0, 1]."""
    with fast_arithmetic(model):
        posterior = model.encode(signed(pictures)).latent_dist
    return posterior.mean.float(), posterior.std.float()


def decoding_error(
    model: AutoencoderKL,
    pictures: torch.Tensor,
    mean: torch.Tensor,
    spread: torch.Tensor,
    roughness: float,
    generator: torch.Generator,
) -> torch.Tensor:
    """Mean absolute error in [-1, 1], weighted, of decoding a draw of the latents with some noise on it."""
    noise = torch.randn(mean.shape, generator=generator)
    latents = mean + torch.sqrt(spread**2 + roughness**2) * noise
    with fast_arithmetic(model):
        decoded = model.decode(latents.contiguous(memory_format=torch.channels_last)).sample
    return ((decoded.float() - signed(pictures)).abs() * importance(pictures)).mean()


def signed(pictures: torch.Tensor) -> torch.Tensor:
    return pictures.mul(2).sub(1).contiguous(memory_format=torch.channels_last)


def importance(pictures: torch.Tensor) -> torch.Tensor:
    """Weights (B, 1, 64, 64): 1 on the background, 3 on things, 6 at their edges."""
    ground = pictures[:, :, :1, :1]
    thing = ((pictures - ground).abs().amax(1, keepdim=True) > 0.02).float()
    near = F.max_pool2d(thing, 3, 1, 1)
    inside = 1 - F.max_pool2d(1 - thing, 3, 1, 1)
    return 1 + 2 * thing + 3 * (near - inside).clamp(0, 1)
