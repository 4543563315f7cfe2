"""Draws held-out scenes with a model, and evaluates them with the reader.

python -m training.tiny.judge --count 500 --sampler dpmpp_2m --steps 20
"""

from __future__ import annotations

import argparse
import random
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from diffusers import DDIMScheduler, DDPMScheduler, DPMSolverMultistepScheduler, StableDiffusionPipeline

import sdbatch.tiny
from sdbatch.tiny.captions import caption
from sdbatch.tiny.reader import read, verdict
from sdbatch.tiny.scenes import Scene, held_out, scenes

__all__ = ["MODEL", "Scores", "describe", "generate", "judge", "load", "questions", "scores"]

# For pictures of "one" thing and of "two": the share of right answers, by question.
Scores = dict[str, dict[str, float]]

MODEL = Path(sdbatch.tiny.__file__).parent / "model"
SAMPLERS = {"ddpm": DDPMScheduler, "ddim": DDIMScheduler, "dpmpp_2m": DPMSolverMultistepScheduler}
BATCH = 16


def questions(count: int, seed: int = 0) -> list[tuple[Scene, str]]:
    """`count` held-out scenes, of one thing and two in turn, with captions that leave out sizes at most."""
    rng = random.Random(f"questions {seed}")
    pools = [[scene for scene in scenes(things) if held_out(scene)] for things in (1, 2)]
    asked = [rng.choice(pools[index % 2]) for index in range(count)]
    return [(scene, caption(scene, rng, thorough=True)) for scene in asked]


def generate(
    pipeline: StableDiffusionPipeline,
    prompts: list[str],
    sampler: str,
    steps: int,
    guidance: float,
    negative: str = "",
) -> Iterator[np.ndarray]:
    """Pictures of the prompts, uint8 (64, 64, 3), in order; prompt i has the seed i."""
    scheduler = SAMPLERS[sampler].from_config(pipeline.scheduler.config, clip_sample=False, thresholding=False)
    parts = {**pipeline.components, "scheduler": scheduler}
    pipeline = StableDiffusionPipeline(**parts, requires_safety_checker=False)
    pipeline.set_progress_bar_config(disable=True)
    for first in range(0, len(prompts), BATCH):
        batch = prompts[first : first + BATCH]
        images = pipeline(
            batch,
            negative_prompt=[negative] * len(batch),
            num_inference_steps=steps,
            guidance_scale=guidance,
            generator=[torch.Generator("cpu").manual_seed(first + index) for index in range(len(batch))],
            output_type="np",
        ).images
        yield from (images * 255).round().astype(np.uint8)


def scores(asked: list[tuple[Scene, str]], pictures: list[np.ndarray]) -> Scores:
    """The share of right answers to each question, for pictures of one thing and of two."""
    found: dict[str, list[dict[str, bool]]] = {"one": [], "two": []}
    for (scene, _), picture in zip(asked, pictures, strict=True):
        found["two" if scene.axis else "one"].append(verdict(read(picture), scene))
    return {
        kind: {question: sum(v[question] for v in verdicts) / len(verdicts) for question in verdicts[0]}
        for kind, verdicts in found.items()
    }


def judge(pipeline: StableDiffusionPipeline, count: int, sampler: str, steps: int, guidance: float) -> Scores:
    """Scores over `count` pictures of held-out scenes."""
    asked = questions(count)
    return scores(asked, list(generate(pipeline, [text for _, text in asked], sampler, steps, guidance)))


def load(folder: Path) -> StableDiffusionPipeline:
    pipeline = StableDiffusionPipeline.from_pretrained(folder)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def describe(result: Scores) -> str:
    return "; ".join(
        f"{kind}: " + " ".join(f"{question} {share:.1%}" for question, share in shares.items())
        for kind, shares in result.items()
    )


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m training.tiny.judge", description=__doc__.splitlines()[0])
    parser.add_argument("--model", type=Path, default=MODEL)
    parser.add_argument("--count", type=int, default=100)
    parser.add_argument("--sampler", choices=SAMPLERS, default="ddpm")
    parser.add_argument("--steps", type=int, default=50)
    parser.add_argument("--guidance-scale", type=float, default=7.5)
    options = parser.parse_args()
    pipeline = load(options.model)
    result = judge(pipeline, options.count, options.sampler, options.steps, options.guidance_scale)
    print(describe(result))


if __name__ == "__main__":
    main()
