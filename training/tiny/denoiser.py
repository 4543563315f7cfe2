"""The last stage: text encoder and UNet together, with the noise-prediction loss of DDPM (Ho et al. 2020)."""

from __future__ import annotations

import copy
import random
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL, DDPMScheduler, UNet2DConditionModel
from torch import nn
from transformers import CLIPTextModel, CLIPTokenizer

from sdbatch.tiny.captions import caption
from sdbatch.tiny.scenes import Scene
from training.tiny.drawing import draw
from training.tiny.text import WIDTH, SceneHead, answers, tokenize
from training.tiny.training import Run, fast_arithmetic, seeded, training_scenes

__all__ = ["Latents", "encode_pool", "new_scheduler", "new_unet", "train_denoiser"]

BATCH = 32
PEAK_RATE = 8e-4
DROPPED = 0.1  # share of captions emptied, for classifier-free guidance (Ho & Salimans 2022)
MISTOLD = 0.12  # share of captions of another picture, as in real data; guidance compensates
FREE, BOUND = 200, 400  # timesteps: below the first every caption is of another picture, from the second on MISTOLD
GAMMA = 5.0  # of min-SNR loss weights (Hang et al. 2023)
HEAD_WEIGHT = 0.02
OVERSHOT = 0.35  # share of pictures with the overshoot of guidance
GHOST = 0.4  # strength of the next picture in them, at most
JUDGE_EVERY = 2_000  # steps
POOL = (6_000, 30_000)  # pictures of one thing and of two


def new_unet() -> UNet2DConditionModel:
    """Text reaches it by cross-attention, and pooled into the time embedding that shifts each block."""
    return UNet2DConditionModel(
        sample_size=8,
        in_channels=8,
        out_channels=8,
        block_out_channels=(96, 128),
        layers_per_block=1,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        cross_attention_dim=WIDTH,
        attention_head_dim=4,
        norm_num_groups=16,
        addition_embed_type="text",
        addition_embed_type_num_heads=4,
        resnet_time_scale_shift="scale_shift",
    )


def new_scheduler() -> DDPMScheduler:
    """The linear betas of the DDPM paper: they end in pure noise, so no ground leaks into the start."""
    return DDPMScheduler(num_train_timesteps=1000, beta_schedule="linear", clip_sample=False, steps_offset=1)


class Latents(NamedTuple):
    """Encoded pictures, float16 (N, 8, 8, 8) at unit scale, and the scenes that they show."""

    values: torch.Tensor
    scenes: list[Scene]


@torch.no_grad()
def encode_pool(model: AutoencoderKL, seed: int) -> tuple[Latents, Latents]:
    """The pools that the denoiser trains on, at unit scale; sets the scaling factor to make them so."""
    pools = []
    for count, size in zip((1, 2), POOL, strict=True):
        allowed, encoded, scenes = training_scenes(count), [], []
        for chunk in range(size // 500):
            rng, generator = seeded(seed, f"pool {count}", chunk)
            batch = [rng.choice(allowed) for _ in range(500)]
            with fast_arithmetic(model):
                posterior = model.encode(draw(batch, rng).mul(2).sub(1)).latent_dist
            noise = torch.randn(posterior.mean.shape, generator=generator)
            encoded.append(posterior.mean.float() + posterior.std.float() * noise)
            scenes += batch
        pools.append((torch.cat(encoded), scenes))
    scale = 1 / torch.cat([values[:2000] for values, _ in pools]).std().item()
    model.register_to_config(scaling_factor=scale)
    one, two = (Latents((values * scale).half(), scenes) for values, scenes in pools)
    return one, two


def draw_batch(
    pools: tuple[Latents, Latents], share_two: float, rng: random.Random
) -> tuple[torch.Tensor, list[Scene]]:
    picks = [
        (pool, rng.randrange(len(pool.scenes))) for pool in (pools[rng.random() < share_two] for _ in range(BATCH))
    ]
    latents = torch.stack([pool.values[index] for pool, index in picks]).float()
    return latents, [pool.scenes[index] for pool, index in picks]


class Denoiser(nn.Module):
    """The networks that are trained together, and their loss."""

    def __init__(self, encoder: CLIPTextModel, head: SceneHead, unet: UNet2DConditionModel) -> None:
        super().__init__()
        self.encoder, self.head, self.unet = encoder, head, unet

    def forward(
        self, noisy: torch.Tensor, timesteps: torch.Tensor, tokens: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """The predicted noise (B, 8, 8, 8) and the text's hidden states (B, L, WIDTH)."""
        hidden = self.encoder(tokens).last_hidden_state
        return self.unet(noisy, timesteps, hidden).sample.float(), hidden


def signal_to_noise(scheduler: DDPMScheduler, timesteps: torch.Tensor) -> torch.Tensor:
    alpha_bar = scheduler.alphas_cumprod[timesteps]
    return alpha_bar / (1 - alpha_bar)


def loss_weights(scheduler: DDPMScheduler, timesteps: torch.Tensor) -> torch.Tensor:
    """min(SNR, γ) / SNR, (B,): noise prediction's share of min-SNR weighting."""
    ratio = signal_to_noise(scheduler, timesteps)
    return ratio.clamp(max=GAMMA) / ratio


def mistold_share(timesteps: torch.Tensor) -> torch.Tensor:
    """The probability, (B,), that a caption is of another picture: MISTOLD, but 1 where little noise is left.

    There the picture itself shows its content. A denoiser that still follows the caption makes late guidance
    unstable: with a second-order solver and 20 steps, colours swing from red to green. Guidance works best in an
    interval without the low noise levels (Kynkäänniemi et al. 2024); training enforces that here.
    """
    bound = ((timesteps - FREE) / (BOUND - FREE)).clamp(0, 1)
    return 1 - bound * (1 - MISTOLD)


def overshoot(
    latents: torch.Tensor, scheduler: DDPMScheduler, timesteps: torch.Tensor, generator: torch.Generator
) -> torch.Tensor:
    """Simulate the effect of strong guidance on latents (B, 8, 8, 8): distance from the average, and a ghost.

    Guidance extrapolates, so sampling meets latents up to four times as far from the average as those from
    `add_noise` (measured at 7.5), mixed with content that is not in the prompt. A share of each batch is moved
    outwards like that, with a ghost of the next picture, and the denoiser must predict the excess as noise, so
    that it removes it.
    """
    pushed = torch.rand(len(latents), generator=generator) < OVERSHOT
    largest = signal_to_noise(scheduler, timesteps).rsqrt().clamp(max=4.0)
    own, ghost = torch.rand(2, len(latents), 1, 1, 1, generator=generator)
    away = latents - latents.mean(0)
    return (pushed * largest)[:, None, None, None] * (own * away + GHOST * ghost * away.roll(-1, 0))


def losses(
    model: Denoiser,
    tokenizer: CLIPTokenizer,
    scheduler: DDPMScheduler,
    batch: tuple[torch.Tensor, list[Scene]],
    rng: random.Random,
    generator: torch.Generator,
) -> tuple[torch.Tensor, torch.Tensor]:
    """The weighted error of the predicted noise, and the scene head's on the captions that were kept."""
    latents, scenes = batch
    timesteps = torch.randint(0, scheduler.config.num_train_timesteps, (len(scenes),), generator=generator)
    wrong = torch.rand(len(scenes), generator=generator) < mistold_share(timesteps)
    told = [scenes[row - mistold] for row, mistold in enumerate(wrong.tolist())]
    kept = torch.rand(len(scenes), generator=generator) >= DROPPED
    captions = [caption(scene, rng) if keep else "" for scene, keep in zip(told, kept.tolist(), strict=True)]
    noise = torch.randn(latents.shape, generator=generator)
    excess = overshoot(latents, scheduler, timesteps, generator)
    noisy = scheduler.add_noise(latents + excess, noise, timesteps)
    ratio = signal_to_noise(scheduler, timesteps)[:, None, None, None]
    with fast_arithmetic(model):
        predicted, hidden = model(
            noisy.contiguous(memory_format=torch.channels_last), timesteps, tokenize(tokenizer, captions)
        )
        head_loss = model.head.loss(hidden[kept], answers(told)[kept])
    errors = F.mse_loss(predicted, noise + ratio.sqrt() * excess, reduction="none").mean((1, 2, 3))
    return (errors * loss_weights(scheduler, timesteps)).mean(), head_loss


def train_denoiser(
    work: Path,
    pools: tuple[Latents, Latents],
    tokenizer: CLIPTokenizer,
    text: tuple[CLIPTextModel, SceneHead],
    steps: int,
    seed: int,
    judge: Callable[[CLIPTextModel, UNet2DConditionModel, int], None],
) -> tuple[CLIPTextModel, UNet2DConditionModel, dict[str, float]]:
    """Text encoder and UNet with averaged weights after `steps` batches, and the record; resumes from `work`.

    Mostly single things in the first third, mostly pairs from then on. `judge` gets the averaged weights
    every JUDGE_EVERY steps.
    """
    torch.manual_seed(seed)
    model = Denoiser(*text, new_unet()).to(memory_format=torch.channels_last)
    averaged = copy.deepcopy(model).eval()
    scheduler = new_scheduler()
    run = Run("denoiser", model, work, steps, BATCH, seed, PEAK_RATE)
    for step, rng, generator in run:
        batch = draw_batch(pools, 0.35 if step < steps / 3 else 0.65, rng)
        noise_loss, head_loss = losses(model, tokenizer, scheduler, batch, rng, generator)
        run.update(noise_loss + HEAD_WEIGHT * head_loss, {"noise": noise_loss.item(), "head": head_loss.item()})
        if run.step % JUDGE_EVERY == 0:
            averaged.load_state_dict(run.average)
            judge(averaged.encoder, averaged.unet, run.step)
    averaged.load_state_dict(run.average)
    return averaged.encoder, averaged.unet, run.record()
