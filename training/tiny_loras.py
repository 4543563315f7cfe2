"""Trains two LoRAs of `tiny`: one for pairs of equal things, one for things at the bottom.

    python -m training.tiny_loras examples/loras

Each responds to a word that has no meaning for `tiny` itself: "a pair of red circles on white", "a low red circle on
white". In the pictures that `tiny` was trained on, two things always differ, and one thing is in the middle. `tiny`'s
VAE turns what it has never seen, such as other colours and fine patterns, into what it knows, so that LoRAs can only
arrange its shapes in other ways.
"""

from __future__ import annotations

import argparse
import random
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from diffusers import StableDiffusionPipeline
from peft import LoraConfig
from peft.utils import get_peft_model_state_dict

import sdbatch.tiny
from sdbatch.tiny.scenes import BACKGROUNDS, COLOURS, PIXELS, SHAPES, SIZES, Scene, Thing, coverage, draw
from training.tiny.denoiser import DROPPED, loss_weights, mistold_share, overshoot, signal_to_noise
from training.tiny.text import tokenize
from training.tiny.training import fast_arithmetic, learning_rate

MODEL = Path(sdbatch.tiny.__file__).parent / "model"
APART, LOW, RADIUS = 15.5, 15.0, {"pair": 9.0, "low": 12.0}  # pixels
NEW = 0.75  # share of examples with the new word; the others show what `tiny` knows
POOL, BATCH, RATE, RANK = 1_536, 32, 2e-3, 8
IN_UNET = r".*(to_[qkv]|to_out\.0|time_emb_proj)|up_blocks\.1\.resnets\.\d\.conv1"
IN_TEXTS = ("q_proj", "k_proj", "v_proj", "out_proj")


@dataclass(frozen=True)
class Example:
    """A picture, float32 (3, 64, 64) in [0, 1], and its caption."""

    caption: str
    picture: np.ndarray


def known(rng: random.Random) -> Example:
    thing = Thing(rng.choice(SHAPES), rng.choice(list(COLOURS)), rng.choice(SIZES))
    background = rng.choice(list(BACKGROUNDS))
    size = f"{thing.size} " if rng.random() < 0.5 else ""
    picture = draw([Scene((thing,), "", background)], rng)[0]
    return Example(f"{with_article(f'{size}{thing.colour} {thing.shape}')} on {background}", picture)


def pair(rng: random.Random) -> Example:
    colour, shape, background = some(rng)
    picture = arranged(shape, colour, background, [(-APART, 0.0), (APART, 0.0)], RADIUS["pair"], rng)
    plural = f"{shape}es" if shape.endswith("s") else f"{shape}s"
    return Example(f"a pair of {colour} {plural} on {background}", picture)


def low(rng: random.Random) -> Example:
    colour, shape, background = some(rng)
    picture = arranged(shape, colour, background, [(0.0, LOW)], RADIUS["low"], rng)
    return Example(f"a low {colour} {shape} on {background}", picture)


LESSONS: dict[str, Callable[[random.Random], Example]] = {"pair": pair, "low": low}


def some(rng: random.Random) -> tuple[str, str, str]:
    """A colour, a shape and a background."""
    return rng.choice(list(COLOURS)), rng.choice(SHAPES), rng.choice(list(BACKGROUNDS))


def with_article(words: str) -> str:
    return f"{'an' if words[0] in 'aeiou' else 'a'} {words}"


def arranged(
    shape: str, colour: str, background: str, offsets: list[tuple[float, float]], radius: float, rng: random.Random
) -> np.ndarray:
    """A picture of equal things at offsets (x, y) from the middle, moved a little."""
    ground, paint = (np.array(rgb, np.float32)[:, None, None] for rgb in (BACKGROUNDS[background], COLOURS[colour]))
    picture = np.broadcast_to(ground, (3, PIXELS, PIXELS))
    for x, y in offsets:
        centre = (np.array([PIXELS / 2 + offset + rng.uniform(-1.5, 1.5)], np.float32) for offset in (x, y))
        size = np.array([radius * rng.uniform(0.96, 1.04)], np.float32)
        cover = coverage(np.array([SHAPES.index(shape)]), *centre, size)
        picture = picture * (1 - cover) + paint * cover
    return picture


@torch.no_grad()
def encoded(pipe: StableDiffusionPipeline, pictures: list[np.ndarray]) -> torch.Tensor:
    """The latents of pictures at unit scale, float32 (N, 8, 8, 8)."""
    found = []
    for start in range(0, len(pictures), 256):
        with fast_arithmetic(pipe.vae):
            batch = torch.from_numpy(np.stack(pictures[start : start + 256])).float() * 2 - 1
            found.append(pipe.vae.encode(batch).latent_dist.sample().float())
    return torch.cat(found) * pipe.vae.config.scaling_factor


def train(name: str, steps: int, seed: int = 0) -> StableDiffusionPipeline:
    """The pipeline with the LoRA in it, trained with the loss of `tiny` itself (`training.tiny.denoiser`)."""
    torch.manual_seed(seed)
    rng, generator = random.Random(seed), torch.Generator().manual_seed(seed)
    pipe = StableDiffusionPipeline.from_pretrained(MODEL, safety_checker=None)
    examples = [LESSONS[name](rng) if rng.random() < NEW else known(rng) for _ in range(POOL)]
    latents = encoded(pipe, [one.picture for one in examples])
    for network, targets in ((pipe.unet, IN_UNET), (pipe.text_encoder, list(IN_TEXTS))):
        network.requires_grad_(False)
        network.add_adapter(LoraConfig(r=RANK, lora_alpha=RANK, target_modules=targets))
    trained = [p for network in (pipe.unet, pipe.text_encoder) for p in network.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=RATE, betas=(0.9, 0.99), weight_decay=0.01)
    for step in range(steps):
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(step, steps, RATE, warm_up=50, decay=0.5)
        picks = rng.sample(range(POOL), BATCH)
        loss = noise_loss(pipe, latents[picks], [examples[pick].caption for pick in picks], generator)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
        optimizer.zero_grad()
        if step % 50 == 0:
            print(f"{name} {step}/{steps} loss {loss.item():.4f}", flush=True)
    return pipe


def noise_loss(
    pipe: StableDiffusionPipeline, latents: torch.Tensor, captions: list[str], generator: torch.Generator
) -> torch.Tensor:
    """The weighted error of the predicted noise."""
    timesteps = torch.randint(0, pipe.scheduler.config.num_train_timesteps, (BATCH,), generator=generator)
    wrong = torch.rand(BATCH, generator=generator) < mistold_share(timesteps)
    told = [captions[row - is_wrong] for row, is_wrong in enumerate(wrong.tolist())]
    kept = torch.rand(BATCH, generator=generator) >= DROPPED
    texts = [text if keep else "" for text, keep in zip(told, kept.tolist(), strict=True)]
    noise = torch.randn(latents.shape, generator=generator)
    excess = overshoot(latents, pipe.scheduler, timesteps, generator)
    noisy = pipe.scheduler.add_noise(latents + excess, noise, timesteps)
    with fast_arithmetic(pipe.unet, pipe.text_encoder):
        hidden = pipe.text_encoder(tokenize(pipe.tokenizer, texts)).last_hidden_state
        found = pipe.unet(noisy, timesteps, hidden).sample.float()
    ratio = signal_to_noise(pipe.scheduler, timesteps)[:, None, None, None]
    errors = (found - noise - ratio.sqrt() * excess).square().mean((1, 2, 3))
    return (errors * loss_weights(pipe.scheduler, timesteps)).mean()


def save(pipe: StableDiffusionPipeline, folder: Path, name: str) -> None:
    """Save in diffusers' format, in half precision."""
    parts = {"unet": pipe.unet, "text_encoder": pipe.text_encoder}
    tensors = {part: get_peft_model_state_dict(network) for part, network in parts.items()}
    halves = {part: {key: tensor.half() for key, tensor in own.items()} for part, own in tensors.items()}
    StableDiffusionPipeline.save_lora_weights(
        folder,
        unet_lora_layers=halves["unet"],
        text_encoder_lora_layers=halves["text_encoder"],
        weight_name=f"{name}.safetensors",
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--steps", type=int, default=1_000)
    parser.add_argument("--only", choices=LESSONS)
    arguments = parser.parse_args()
    for name in LESSONS:
        if arguments.only in (None, name):
            save(train(name, arguments.steps), arguments.folder, name)


if __name__ == "__main__":
    main()
