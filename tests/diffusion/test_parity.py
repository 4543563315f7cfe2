"""The engine makes the pictures that diffusers' pipelines make, whatever rows share a pass."""

from __future__ import annotations

import itertools

import pytest
from diffusers import StableDiffusionXLPipeline
from references import Reference

from sdbatch.diffusion.engine import Engine
from sdbatch.diffusion.models.inspection import inspect_model
from sdbatch.diffusion.request import Request
from sdbatch.diffusion.samplers.catalogue import SAMPLERS

CORE = ("ddpm", "ddim", "pndm", "euler", "euler_a", "dpmpp_2m")
OTHERS = tuple(name for name in SAMPLERS if name not in CORE)
PROMPTS = (
    ("a red cat", ""),
    ("two blue squares", "ugly, blurry"),
    ("ein Würfel 🎲 auf dem Tisch", ""),
    ("a very long prompt " * 12, "a very long negative prompt " * 12),
)


def grid(samplers, steps, guidance_scales) -> list[Request]:
    """One request a combination, each with a prompt and seed of its own, in an order that mixes settings."""
    requests = []
    for i, (n, g, sampler) in enumerate(itertools.product(steps, guidance_scales, samplers)):
        prompt, negative = PROMPTS[i % len(PROMPTS)]
        requests.append(Request(prompt, negative, seed=1000 + 17 * i, sampler=sampler, steps=n, guidance_scale=g))
    return requests


def assert_parity(reference: Reference, images) -> None:
    """At most 2 of 255 from diffusers; one row in fifty may be off by what diffusers is off from itself."""
    off = {request: by for request, by in reference.deviations(images).items() if by > 2}
    chaotic = {request for request, by in off.items() if by <= reference.sensitivity(request)}
    told = {f"{r.sampler} {r.steps} steps, guidance {r.guidance_scale}": by for r, by in off.items()}
    assert chaotic == off.keys() and len(chaotic) <= max(1, len(images) // 50), f"off by more than 2 of 255: {told}"


# Everyday steps and guidance, then, in the long tier, more of both.
CORE_GRIDS = (
    ["checkpoint", "steps", "guidance_scales"],
    [
        ("sd", (10, 20), (1, 7.5)),
        ("sd_v", (10,), (1, 3)),
        pytest.param("sd", (10, 20, 50), (1, 3, 7.5), marks=pytest.mark.long),
        pytest.param("sd_v", (10, 20, 50), (1, 3, 7.5), marks=pytest.mark.long),
    ],
)
EMBEDDED_GRIDS = (
    ["steps", "guidance_scales"],
    [
        ((20,), (1, 7.5)),
        pytest.param((10, 20, 50), (1, 3, 7.5), marks=pytest.mark.long),
    ],
)
OTHER_GRIDS = (
    ["checkpoint", "steps", "guidance_scales"],
    [
        ("sd", (7,), (1, 7.5)),
        pytest.param("sd", (5, 12), (1, 7.5), marks=pytest.mark.long),
        pytest.param("sd_v", (5, 12), (1, 7.5), marks=pytest.mark.long),
    ],
)


@pytest.mark.parametrize(*CORE_GRIDS)
def test_core_samplers_make_diffusers_pictures(checkpoint, steps, guidance_scales, request):
    folder = request.getfixturevalue(checkpoint)
    requests = grid(CORE, steps, guidance_scales)
    images = list(Engine(folder, lanes=16).generate(requests))
    assert len(images) == len(requests)
    assert_parity(Reference(folder), images)


@pytest.mark.parametrize(*EMBEDDED_GRIDS)
def test_core_samplers_make_diffusers_pictures_on_the_embedded_model(steps, guidance_scales):
    folder = inspect_model("tiny").folder
    requests = grid(CORE, steps, guidance_scales)
    assert_parity(Reference(folder), list(Engine("tiny", lanes=16).generate(requests)))


@pytest.mark.parametrize(*OTHER_GRIDS)
def test_other_samplers_make_diffusers_pictures(checkpoint, steps, guidance_scales, request):
    folder = request.getfixturevalue(checkpoint)
    requests = grid(OTHERS, steps, guidance_scales)
    images = list(Engine(folder, lanes=16).generate(requests))
    assert_parity(Reference(folder), images)


@pytest.mark.parametrize("guidance_scales", [(7.5,), pytest.param((1, 7.5), marks=pytest.mark.long)])
def test_sdxl_makes_diffusers_pictures(sdxl, guidance_scales):
    requests = grid(SAMPLERS, steps=(6,), guidance_scales=guidance_scales)
    images = list(Engine(sdxl, lanes=16).generate(requests))
    assert_parity(Reference(sdxl, StableDiffusionXLPipeline), images)


def test_sizes_other_than_the_models_own(sd):
    sizes = [(64, 64), (64, 128), (40, 56), (8, 8), (96, 72), (128, 128)]
    requests = [Request("a cat", seed=i, steps=6, height=h, width=w) for i, (h, w) in enumerate(sizes * 2)]
    images = list(Engine(sd, lanes=4).generate(requests))
    assert {image.pixels.shape[:2] for image in images} == set(sizes)
    assert_parity(Reference(sd), images)
