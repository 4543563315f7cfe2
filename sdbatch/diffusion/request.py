"""What goes into the engine and what comes out of it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

__all__ = ["GeneratedImage", "Request"]


@dataclass(frozen=True, slots=True)
class Request:
    """One picture to make. Field names are those of the prompt table's columns.

    Args:
        prompt: text; tokens beyond the text encoder's context are cut off, as diffusers does.
        negative_prompt: what guidance steers away from; empty for none.
        seed: of the CPU generator that draws the start latents and every step's noise; 0 ≤ seed < 2**63.
        sampler: a name or alias from `sdbatch.diffusion.samplers`.
        steps: `num_inference_steps` of the diffusers scheduler.
        guidance_scale: classifier-free guidance (Ho & Salimans 2022); at most 1 means none.
        height, width: pixels; None is the model's own size.
        guidance_rescale: φ of Lin et al. 2023, takes back some of the contrast that guidance adds; 0 is off.
        guidance_start, guidance_stop: guidance is on from the one to the other alone (limited-interval guidance,
            Kynkäänniemi et al. 2024), as shares of the calls of the model; diffusers' guiders have the same two.
    """

    prompt: str
    negative_prompt: str = ""
    seed: int = 0
    sampler: str = "ddpm"
    steps: int = 50
    guidance_scale: float = 7.5
    height: int | None = None
    width: int | None = None
    guidance_rescale: float = 0.0
    guidance_start: float = 0.0
    guidance_stop: float = 1.0


@dataclass(frozen=True, slots=True)
class GeneratedImage:
    """The outcome of one request: pixels, or the reason why there are none.

    Attributes:
        request: the very object that was submitted.
        index: the request's place in the order of submission, from 0.
        pixels: uint8 array (height, width, 3), RGB; None if the row failed.
        error: None, or one line saying why the row failed.
        prompt_tokens: tokens of the prompt, special tokens included, before truncation.
        prompt_truncated: whether the prompt was longer than the text encoder's context.
    """

    request: Request
    index: int
    pixels: np.ndarray | None
    error: str | None = None
    prompt_tokens: int = 0
    prompt_truncated: bool = False
