"""Rows with input pictures, and the results of diffusers' own pipelines."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import diffusers
import numpy as np
import PIL.Image
import PIL.ImageOps
import torch
from diffusers.utils import load_image, logging

from sdbatch.diffusion.pictures.picture import Picture
from sdbatch.diffusion.request import GeneratedImage, Request
from sdbatch.diffusion.samplers.catalogue import resolve
from sdbatch.diffusion.samplers.schedulers import build_scheduler

# What each task's rows are made by, by the class that the checkpoint's model_index.json names.
OFFSET_BY_ONE = (
    diffusers.StableDiffusionPipeline,
    diffusers.StableDiffusionImg2ImgPipeline,
    diffusers.StableDiffusionInpaintPipeline,
)


def photo(height: int, width: int, seed: int) -> PIL.Image.Image:
    """Blotches of colour with noise over them: no two patches alike."""
    source = np.random.default_rng(seed)
    blotches = PIL.Image.fromarray(source.integers(0, 256, (6, 6, 3), dtype=np.uint8))
    blotches = np.array(blotches.resize((width, height), PIL.Image.Resampling.BICUBIC)).astype(int)
    return PIL.Image.fromarray((blotches + source.integers(-12, 12, (height, width, 3))).clip(0, 255).astype(np.uint8))


def mask(height: int, width: int, seed: int) -> PIL.Image.Image:
    """White where a quarter is to be painted."""
    source = np.random.default_rng(seed)
    pixels = np.zeros((height, width), np.uint8)
    top, left = source.integers(0, height // 2), source.integers(0, width // 2)
    pixels[top : top + height // 2, left : left + width // 2] = 255
    return PIL.Image.fromarray(pixels)


class Pipelines:
    """diffusers' pipelines over one checkpoint, one for each task."""

    def __init__(self, folder: Path, classes: Mapping[str, type]):
        logging.set_verbosity_error()
        logging.disable_progress_bar()
        self._pipelines = {}
        for task, cls in classes.items():
            options = {"add_watermarker": False} if "XL" in cls.__name__ else {"safety_checker": None}
            first = next(iter(self._pipelines.values()), None)
            self._pipelines[task] = cls.from_pretrained(folder, **options) if first is None else _with_parts(cls, first)
            self._pipelines[task].set_progress_bar_config(disable=True)
        self.config = dict(next(iter(self._pipelines.values())).scheduler.config)

    def pixels(self, request: Request) -> np.ndarray:
        """uint8 (H, W, 3)."""
        extra = {name: value for name, value in request.extra.items() if value is not None}
        task = request.task if "image" in extra else "text-to-image"
        pipeline = self._pipelines[task]
        pipeline.scheduler = build_scheduler(resolve(request.sampler), self.config)
        if isinstance(pipeline, OFFSET_BY_ONE):
            pipeline.scheduler.register_to_config(steps_offset=1)
        options = {name: value.load() if isinstance(value, Picture) else value for name, value in extra.items()}
        if task in ("text-to-image", "inpainting"):
            options |= {"height": request.height or 64, "width": request.width or 64}
        elif isinstance(pipeline, diffusers.StableDiffusionXLInstructPix2PixPipeline):
            options |= {"height": options["image"].height // 8 * 8, "width": options["image"].width // 8 * 8}
        elif request.height:
            options["image"] = PIL.ImageOps.fit(
                options["image"], (request.width, request.height), PIL.Image.Resampling.LANCZOS
            )
        if not isinstance(pipeline, diffusers.LatentConsistencyModelImg2ImgPipeline):
            options["negative_prompt"] = request.negative_prompt or None
        images = pipeline(
            prompt=request.prompt,
            num_inference_steps=request.steps,
            guidance_scale=request.guidance_scale,
            generator=torch.Generator("cpu").manual_seed(request.seed),
            output_type="pil",
            **options,
        ).images
        return np.asarray(images[0])

    def deviations(self, images: list[GeneratedImage]) -> dict[str, int]:
        """Largest difference of any pixel value, by the row in words."""
        found = {}
        for image in images:
            assert image.error is None, image.error
            wanted = self.pixels(image.request)
            assert image.pixels.shape == wanted.shape, (image.pixels.shape, wanted.shape)
            found[words(image.request)] = int(np.abs(image.pixels.astype(int) - wanted).max())
        assert len(found) == len(images), "two rows of one name"
        return found


def words(request: Request) -> str:
    settings = {name: value for name, value in request.extra.items() if not isinstance(value, Picture)}
    return f"{request.task} {request.sampler} {request.steps} g{request.guidance_scale} #{request.seed} {settings}"


def _with_parts(cls: type, pipeline):
    options = {"add_watermarker": False} if "XL" in cls.__name__ else {"requires_safety_checker": False}
    parts = {name: part for name, part in pipeline.components.items() if name in cls._get_signature_types()}
    return cls(**parts, **options)


__all__ = ["Picture", "Pipelines", "load_image", "mask", "photo", "words"]
