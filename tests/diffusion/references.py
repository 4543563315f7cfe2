"""The picture of diffusers' own pipeline for a request."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from diffusers import LatentConsistencyModelPipeline, StableDiffusionPipeline, StableDiffusionXLPipeline
from diffusers.utils import logging

from sdbatch.diffusion.request import GeneratedImage, Request
from sdbatch.diffusion.samplers.catalogue import resolve
from sdbatch.diffusion.samplers.schedulers import build_scheduler

# The pipelines prepare the unconditional half of their batch only if guidance is on when they start.
ALMOST_NONE = 1 + 1e-12


def limited_guidance(request: Request) -> Callable[[int], float]:
    """The guidance scale of each step."""
    start, stop = (int(share * request.steps) for share in (request.guidance_start, request.guidance_stop))
    return lambda step: request.guidance_scale if start <= step < stop else ALMOST_NONE


def switching(scale_at: Callable[[int], float]):
    """Guidance changed between the steps, in the way that diffusers' documentation shows ("dynamic CFG")."""

    def at_step_end(pipeline, step: int, timestep, arguments: dict) -> dict:
        pipeline._guidance_scale = scale_at(step + 1)
        return arguments

    return at_step_end


class Reference:
    """diffusers' pipeline on a checkpoint, one request at a time."""

    def __init__(self, folder: Path, cls=StableDiffusionPipeline, dtype=torch.float32):
        logging.set_verbosity_error()
        logging.disable_progress_bar()
        options = {"add_watermarker": False} if cls is StableDiffusionXLPipeline else {"safety_checker": None}
        self.pipeline = cls.from_pretrained(folder, dtype=dtype, **options)
        self.pipeline.set_progress_bar_config(disable=True)
        self.config = dict(self.pipeline.scheduler.config)

    def pixels(self, request: Request) -> np.ndarray:
        """uint8 (H, W, 3)."""
        return self._pixels(request, generator=torch.Generator("cpu").manual_seed(request.seed))

    def _pixels(self, request: Request, **start: torch.Generator | torch.Tensor) -> np.ndarray:
        self.pipeline.scheduler = build_scheduler(resolve(request.sampler), self.config)
        if isinstance(self.pipeline, StableDiffusionPipeline):
            self.pipeline.scheduler.register_to_config(steps_offset=1)
        options = dict(start)
        if not isinstance(self.pipeline, LatentConsistencyModelPipeline):
            options["negative_prompt"] = request.negative_prompt or None
            options["guidance_rescale"] = request.guidance_rescale
        scale_at = limited_guidance(request)
        if (request.guidance_start, request.guidance_stop) != (0.0, 1.0):
            options["callback_on_step_end"] = switching(scale_at)
        images = self.pipeline(
            request.prompt,
            num_inference_steps=request.steps,
            guidance_scale=scale_at(0),
            height=request.height,
            width=request.width,
            output_type="np",
            **options,
        ).images
        return (images[0] * 255).round().astype(np.uint8)

    def sensitivity(self, request: Request) -> int:
        """How far any pixel value moves, at most, if the start latents move by a millionth: by what passes round.

        Some rows are chaotic: rounding decides about them, diffusers' or anybody's.
        """
        height, width = request.height or 64, request.width or 64
        channels = self.pipeline.unet.config.in_channels
        own = self.pixels(request).astype(int)
        moved = []
        for source in range(8):
            generator = torch.Generator("cpu").manual_seed(request.seed)
            latents = torch.randn(1, channels, height // 8, width // 8, generator=generator)
            noise = torch.randn(latents.shape, generator=torch.Generator().manual_seed(source))
            picture = self._pixels(request, generator=generator, latents=latents * (1 + 1e-6 * noise))
            moved.append(int(np.abs(picture.astype(int) - own).max()))
        return max(moved)

    def deviations(self, images: list[GeneratedImage]) -> dict[Request, int]:
        """Largest difference of any pixel value, by the row."""
        deviations = {}
        for image in images:
            assert image.error is None, image.error
            difference = image.pixels.astype(int) - self.pixels(image.request).astype(int)
            deviations[image.request] = int(np.abs(difference).max())
        return deviations
