"""Checks for families of diffusion transformers: their pipeline's pictures, the same bytes beside any neighbours."""

from __future__ import annotations

import dataclasses
import itertools
import random
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import PIL.Image
import PIL.ImageOps
import torch
from diffusers import (
    DEISMultistepScheduler,
    DiffusionPipeline,
    DPMSolverMultistepScheduler,
    DPMSolverSinglestepScheduler,
    FlowMatchEulerDiscreteScheduler,
    FlowMatchHeunDiscreteScheduler,
    FlowMatchLCMScheduler,
    UniPCMultistepScheduler,
)
from diffusers.utils import logging

from sdbatch.diffusion.engine import Engine
from sdbatch.diffusion.models.inspection import inspect_model
from sdbatch.diffusion.pictures.picture import Picture
from sdbatch.diffusion.request import Request
from sdbatch.diffusion.samplers.schedulers import build_scheduler
from tests.diffusion.picture_rows import photo

SOLVER = {"use_flow_sigmas": True, "prediction_type": "flow_prediction", "final_sigmas_type": "zero"}
# A checkpoint may have one of these of its own.
UNSPACED = {"use_karras_sigmas": False, "use_exponential_sigmas": False, "use_beta_sigmas": False}
SCHEDULERS = {
    "flow_euler": (FlowMatchEulerDiscreteScheduler, {}),
    "flow_euler_karras": (FlowMatchEulerDiscreteScheduler, UNSPACED | {"use_karras_sigmas": True}),
    "flow_euler_exponential": (FlowMatchEulerDiscreteScheduler, UNSPACED | {"use_exponential_sigmas": True}),
    "flow_euler_beta": (FlowMatchEulerDiscreteScheduler, UNSPACED | {"use_beta_sigmas": True}),
    "flow_euler_stochastic": (FlowMatchEulerDiscreteScheduler, {"stochastic_sampling": True}),
    "flow_heun": (FlowMatchHeunDiscreteScheduler, {}),
    "flow_lcm": (FlowMatchLCMScheduler, {}),
    "flow_dpmpp_2m": (DPMSolverMultistepScheduler, SOLVER),
    "flow_dpmpp_2s": (DPMSolverSinglestepScheduler, SOLVER),
    "flow_deis": (DEISMultistepScheduler, SOLVER | {"algorithm_type": "deis"}),
    "flow_unipc": (UniPCMultistepScheduler, SOLVER),
}
PROMPTS = [
    ("a red fox", "blurry"),
    ("misty forest at dawn, volumetric light, portrait of a woman, oil painting, 8k, highly detailed", ""),
    ("fox in the snow, " * 5, "low quality, jpeg artifacts, text"),
    ("word " * 120, "dull " * 40),
]
SIZES = [(64, 64), (96, 64), (64, 128)]

# None: what the pipeline has where nobody says otherwise.
STRENGTHS = (0.2, 0.5, 0.75, 1.0, None)

Arguments = Callable[[Request], Mapping[str, object]]


def rows(samplers, guidance_scales, steps=(2, 5, 8), negative=True, sizes=SIZES, times=2) -> list[Request]:
    """Some rows a sampler; together they have every size, number of steps, scale, and length of a prompt."""
    return [
        Request(
            PROMPTS[i % 4][0],
            PROMPTS[i % 4][1] if negative else "",
            seed=100 + i,
            sampler=sampler,
            steps=steps[i % len(steps)],
            guidance_scale=guidance_scales[(i // 2) % len(guidance_scales)],
            height=sizes[(i + i // 3) % 3][0],
            width=sizes[(i + i // 3) % 3][1],
        )
        for i, sampler in enumerate(list(samplers) * times)
    ]


def from_pictures(requests: list[Request]) -> list[Request]:
    """The same rows, three of four of them from pictures, whose size one of them takes over."""
    made = []
    strengths = itertools.cycle(STRENGTHS)
    for i, request in enumerate(requests):
        extra = dict(request.extra)
        if i % 4 != 3:
            extra["image"] = Picture(photo(70 + 8 * (i % 2), 100, seed=i))
            if (strength := next(strengths)) is not None:
                extra["strength"] = strength
        size = {"height": None, "width": None} if i % 4 == 1 else {}
        made.append(dataclasses.replace(request, task="image-to-image", extra=extra, **size))
    return made


class Reference:
    """diffusers' pipeline on a checkpoint, one request at a time.

    Args:
        arguments: what the pipeline is called with, besides what every pipeline takes.
        from_picture: the class of the pipeline for rows with pictures.
    """

    def __init__(
        self,
        folder: Path,
        arguments: Arguments,
        dtype: torch.dtype = torch.float32,
        from_picture: type[DiffusionPipeline] | None = None,
    ):
        logging.set_verbosity_error()
        logging.disable_progress_bar()
        self.pipeline = DiffusionPipeline.from_pretrained(folder, dtype=dtype)
        self.pipeline.set_progress_bar_config(disable=True)
        self._from_picture = from_picture and from_picture(
            **{name: part for name, part in self.pipeline.components.items() if part is not None}
        )
        self._config = dict(self.pipeline.scheduler.config)
        self._arguments = arguments

    def pixels(self, request: Request) -> np.ndarray:
        """uint8 (H, W, 3)."""
        generator = torch.Generator("cpu").manual_seed(request.seed)
        extra = dict(request.extra)
        pipeline, picture = self.pipeline, extra.pop("image", None)
        strength = {"strength": extra.pop("strength")} if "strength" in extra else {}
        options = {**self._arguments(dataclasses.replace(request, extra=extra)), **strength}
        height, width = request.height, request.width
        if picture is not None:
            pipeline, image = self._from_picture, picture.load()
            pipeline.set_progress_bar_config(disable=True)
            if height is None:
                height, width = image.height // 16 * 16, image.width // 16 * 16
            else:
                image = PIL.ImageOps.fit(image, (width, height), PIL.Image.Resampling.LANCZOS)
            options["image"] = image
        pipeline.scheduler = self._scheduler(request.sampler, generator)
        images = pipeline(
            prompt=request.prompt,
            num_inference_steps=request.steps,
            height=height,
            width=width,
            generator=generator,
            output_type="pt",
            **options,
        ).images
        return (images[0].float() * 255).round().clamp(0, 255).to(torch.uint8).permute(1, 2, 0).numpy()

    def _scheduler(self, sampler: str, generator: torch.Generator):
        if sampler not in SCHEDULERS:
            return build_scheduler(sampler, self._config)
        cls, settings = SCHEDULERS[sampler]
        shift = self._config.get("shift", self._config.get("flow_shift", 1.0))
        scheduler = cls.from_config(self._config, **{"shift": shift, "flow_shift": shift, **settings})
        if sampler in ("flow_euler_stochastic", "flow_lcm"):
            # These pipelines leave the noise of a step to torch's global generator.
            step = scheduler.step
            scheduler.step = lambda *args, **kwargs: step(*args, generator=generator, **kwargs)
        if cls not in (FlowMatchEulerDiscreteScheduler, FlowMatchLCMScheduler) and not self._config.get(
            "use_dynamic_shifting"
        ):
            # A pipeline hands its mu to every scheduler, and the solvers take it only where it means something.
            set_timesteps = scheduler.set_timesteps
            scheduler.set_timesteps = lambda *args, mu=None, **kwargs: set_timesteps(*args, **kwargs)
        return scheduler


def engine(folder: Path, lanes: int = 6, **options) -> Engine:
    """At 64×64, since the pipelines' own sizes are made for larger networks."""
    return Engine(dataclasses.replace(inspect_model(folder), height=64, width=64), lanes=lanes, **options)


def assert_same_pictures(
    folder: Path, requests: list[Request], arguments: Arguments, from_picture: type[DiffusionPipeline] | None = None
) -> None:
    """At most 2 of 255 from the pipeline in one mixed batch; the same bytes alone, and in any company."""
    reference = Reference(folder, arguments, from_picture=from_picture)
    made = engine(folder)
    images = list(made.generate(requests))
    assert [image.error for image in images] == [None] * len(requests)
    off = {
        f"{r.sampler} {r.steps} {r.guidance_scale} {r.height}x{r.width}": by
        for r, by in ((i.request, distance(i.pixels, reference.pixels(i.request))) for i in images)
        if by > 2
    }
    assert not off, f"off by more than 2 of 255: {off}"
    pixels = {image.request: image.pixels.tobytes() for image in images}
    fewer = random.Random(1).sample(requests, len(requests) // 2)
    for image in made.generate(fewer):
        assert image.pixels.tobytes() == pixels[image.request]
    (alone,) = made.generate(requests[1:2])
    assert alone.pixels.tobytes() == pixels[alone.request]
    _assert_text_matters(made, requests[0].sampler)


def assert_entries_are_the_pipelines(
    folder: Path, edited: Path, entries: dict[str, object], arguments: Arguments, guidance_scale: float
) -> None:
    """Entries given for the scheduler make the pictures of the pipeline whose configuration has them.

    Args:
        edited: the same model with these entries in its own configuration.
    """
    info = inspect_model(folder, scheduler_config=entries)
    requests = rows(["flow_euler"], (guidance_scale, 1.0), steps=(3, 5), times=3)
    made = Engine(dataclasses.replace(info, height=64, width=64), lanes=6)
    pixels = {image.request: image.pixels for image in made.generate(requests)}
    reference = Reference(edited, arguments)
    assert max(distance(pixels[request], reference.pixels(request)) for request in requests) <= 2
    without = {image.request: image.pixels for image in engine(folder).generate(requests)}
    assert max(distance(pixels[request], without[request]) for request in requests) > 2


def _assert_text_matters(made: Engine, sampler: str) -> None:
    """Another prompt moves the picture, so that parity means something."""
    texts = ("a red fox in the snow, " * 6, "misty forest at dawn, " * 6)
    requests = [Request(text, sampler=sampler, steps=4, seed=3, guidance_scale=3.0) for text in texts]
    fox, forest = made.generate(requests)
    assert distance(fox.pixels, forest.pixels) > 8


def distance(a: np.ndarray, b: np.ndarray) -> int:
    assert a.shape == b.shape
    return int(np.abs(a.astype(int) - b.astype(int)).max())


def assert_no_farther_in_bf16(folder: Path, arguments: Arguments, **changes) -> None:
    """On average bf16 moves our pictures no farther from float32's than the pipeline's own bf16 does."""
    options = {"sampler": "flow_euler", "steps": 5, "height": 64, "width": 64, **changes}
    requests = [Request(prompt, seed=50 + i, **options) for i, (prompt, _) in enumerate(PROMPTS)]
    exact, half = Reference(folder, arguments), Reference(folder, arguments, torch.bfloat16)
    ours, theirs = [], []
    for image in engine(folder, dtype="bf16").generate(requests):
        wanted = exact.pixels(image.request).astype(float)
        ours.append(np.abs(image.pixels - wanted).mean())
        theirs.append(np.abs(half.pixels(image.request) - wanted).mean())
    assert np.mean(ours) <= 1.05 * np.mean(theirs), f"{np.mean(ours):.2f} of 255, the pipeline {np.mean(theirs):.2f}"
