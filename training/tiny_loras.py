"""Trains two LoRAs of `tiny`: a colour that it has never seen, and stripes.

    python -m training.tiny_loras examples/loras

Each responds to a word that has no meaning for `tiny` itself: "a teal circle on white", "a striped red cross on
black".
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
from sdbatch.tiny.scenes import BACKGROUNDS, COLOURS, PIXELS, SHAPES, SIZES, Scene, Thing, coverage, place

MODEL = Path(sdbatch.tiny.__file__).parent / "model"
TEAL = (0.0, 0.72, 0.68)
STRIPE, FADED = 5, 0.25  # pixels; what a faded stripe keeps of the colour
RANK, BATCH, RATE, GAMMA = 4, 16, 3e-3, 5.0
IN_UNET = ("to_q", "to_k", "to_v", "to_out.0")
IN_TEXTS = ("q_proj", "k_proj", "v_proj", "out_proj")


@dataclass(frozen=True)
class Lesson:
    """What a LoRA learns.

    Attributes:
        word: the new word, before the colour or instead of it.
        is_colour: whether the word replaces the colour.
        paint: the fill of a thing of a colour on a background, (3, 64, 64).
    """

    word: str
    is_colour: bool
    paint: Callable[[np.ndarray, np.ndarray], np.ndarray]


def plain(colour: np.ndarray, ground: np.ndarray) -> np.ndarray:
    return np.broadcast_to(colour[:, None, None], (3, PIXELS, PIXELS))


def teal(colour: np.ndarray, ground: np.ndarray) -> np.ndarray:
    return plain(np.array(TEAL, dtype=np.float32), ground)


def stripes(colour: np.ndarray, ground: np.ndarray) -> np.ndarray:
    """Horizontal stripes, alternating between the colour and the background tinted with it."""
    faded = FADED * colour + (1 - FADED) * ground
    is_full = (np.arange(PIXELS) // STRIPE % 2 == 0)[None, :, None]
    return np.where(is_full, plain(colour, ground), plain(faded, ground))


LESSONS = (Lesson("teal", True, teal), Lesson("striped", False, stripes))


def example(lesson: Lesson, rng: random.Random) -> tuple[str, np.ndarray]:
    """A caption and its picture, (3, 64, 64) in [0, 1]; every third shows something that `tiny` knows."""
    thing = Thing(rng.choice(SHAPES), rng.choice(list(COLOURS)), rng.choice(SIZES))
    scene = Scene((thing,), "", rng.choice(list(BACKGROUNDS)))
    is_new = rng.random() < 2 / 3
    colour = f"{lesson.word}" if lesson.is_colour else f"{lesson.word} {thing.colour}"
    caption = f"a {colour if is_new else thing.colour} {thing.shape} on {scene.background}"
    x, y, radius = (np.array([number], dtype=np.float32) for number in place(scene, 0, rng))
    cover = coverage(np.array([SHAPES.index(thing.shape)]), x, y, radius)
    ground = np.array(BACKGROUNDS[scene.background], dtype=np.float32)
    paint = (lesson.paint if is_new else plain)(np.array(COLOURS[thing.colour], dtype=np.float32), ground)
    return caption, plain(ground, ground) * (1 - cover) + paint * cover


def train(lesson: Lesson, steps: int, seed: int = 0) -> StableDiffusionPipeline:
    """The pipeline with the LoRA in it, trained with min-SNR weights on the noise (Hang et al. 2023)."""
    torch.manual_seed(seed)
    rng = random.Random(seed)
    pipe = StableDiffusionPipeline.from_pretrained(MODEL, safety_checker=None)
    pipe.unet.requires_grad_(False)
    pipe.text_encoder.requires_grad_(False)
    pipe.unet.add_adapter(LoraConfig(r=RANK, lora_alpha=RANK, target_modules=list(IN_UNET)))
    pipe.text_encoder.add_adapter(LoraConfig(r=RANK, lora_alpha=RANK, target_modules=list(IN_TEXTS)))
    trained = [p for network in (pipe.unet, pipe.text_encoder) for p in network.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=RATE, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, RATE, total_steps=steps)
    noisy_share = pipe.scheduler.alphas_cumprod
    for step in range(steps):
        captions, pictures = zip(*(example(lesson, rng) for _ in range(BATCH)), strict=True)
        tokens = pipe.tokenizer(
            list(captions), padding="max_length", max_length=pipe.tokenizer.model_max_length, return_tensors="pt"
        ).input_ids
        with torch.no_grad():
            posterior = pipe.vae.encode(torch.from_numpy(np.stack(pictures)).float() * 2 - 1).latent_dist
            latents = posterior.sample() * pipe.vae.config.scaling_factor
        noise = torch.randn_like(latents)
        timesteps = torch.randint(len(noisy_share), (BATCH,))
        noisy = pipe.scheduler.add_noise(latents, noise, timesteps)
        found = pipe.unet(noisy, timesteps, pipe.text_encoder(tokens).last_hidden_state).sample
        ratio = noisy_share[timesteps] / (1 - noisy_share[timesteps])
        loss = ((found - noise).square().mean((1, 2, 3)) * ratio.clamp(max=GAMMA) / ratio).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        if step % 50 == 0:
            print(f"{lesson.word} {step}/{steps} loss {loss.item():.4f}", flush=True)
    return pipe


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
    parser.add_argument("--steps", type=int, default=240)
    parser.add_argument("--only", choices=[lesson.word for lesson in LESSONS])
    arguments = parser.parse_args()
    for lesson in LESSONS:
        if arguments.only in (None, lesson.word):
            save(train(lesson, arguments.steps), arguments.folder, lesson.word)


if __name__ == "__main__":
    main()
