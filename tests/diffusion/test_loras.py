"""Rows with different LoRAs share passes, and each equals diffusers' picture with peft."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import StableDiffusionPipeline, StableDiffusionXLPipeline
from lora_checkpoints import build_loras
from references import Reference
from safetensors.torch import load_file, save_file

from sdbatch.diffusion.adapters.lora_rows import Loras, loras_of
from sdbatch.diffusion.engine import Engine
from sdbatch.diffusion.request import GeneratedImage, Request

CLASSES = {"sd": StableDiffusionPipeline, "sdxl": StableDiffusionXLPipeline}
SAMPLERS = ("ddim", "euler_a", "dpmpp_2m", "ddpm", "heun", "pndm")
WEIGHTS = (
    {},
    {"attention": 1},
    {"texts": 0.8},
    {"everything": 1},
    {"patterns": 0.7},
    {"attention": 0.6, "everything": 0.5},
    {"texts": -0.5, "patterns": 1},
    {"texts": 1.5},
)
TEXTS = (("a red cat", ""), ("two blue squares", "ugly, blurry"), ("a long prompt " * 12, "bad"))


# What follows is the same code for both.
of_sd = pytest.mark.parametrize("kind", ["sd"], indirect=True, scope="module")


@pytest.fixture(scope="module", params=CLASSES)
def kind(request) -> str:
    return request.param


@pytest.fixture(scope="module")
def folder(kind, request) -> Path:
    return request.getfixturevalue(kind)


@pytest.fixture(scope="module")
def files(folder, tmp_path_factory) -> Mapping[str, Path]:
    return build_loras(tmp_path_factory.mktemp("loras") / "files", folder)


@pytest.fixture(scope="module")
def requests(files) -> list[Request]:
    return [
        Request(
            *TEXTS[i % 3],
            seed=500 + i,
            sampler=SAMPLERS[i % 6],
            steps=3 + i % 2,
            guidance_scale=(5, 1)[i % 3 == 2],
            extra={"lora": named(files, weights)} if weights else {},
        )
        for i, weights in enumerate(WEIGHTS)
    ]


@pytest.fixture(scope="module")
def images(folder, requests) -> dict[Request, GeneratedImage]:
    return made(Engine(folder, lanes=8), requests)


def named(files: Mapping[str, Path], weights: Mapping[str, float]) -> str:
    return ";".join(f"{files[name]}:{weight}" for name, weight in weights.items())


def made(engine: Engine, requests: list[Request]) -> dict[Request, GeneratedImage]:
    found = {requests[image.index].seed: image for image in engine.generate(requests)}
    assert {image.error for image in found.values()} == {None}
    return found


def follow_the_file(pipe: StableDiffusionPipeline, name: str, path: Path) -> None:
    """diffusers drops alphas of attention layers that differ from the file's commonest; here the file counts."""
    alphas = load_file(path)
    for layer, module in pipe.unet.named_modules():
        if name in getattr(module, "lora_alpha", {}):
            module.lora_alpha[name] = float(alphas[f"lora_unet_{layer.replace('.', '_')}.alpha"])


def test_each_row_is_diffusers_picture_with_peft(kind, folder, files, requests, images):
    plain, adapted = (Reference(folder, CLASSES[kind]) for _ in range(2))
    for name, path in files.items():
        adapted.pipeline.load_lora_weights(str(path), adapter_name=name)
    follow_the_file(adapted.pipeline, "patterns", files["patterns"])
    for request, weights in zip(requests, WEIGHTS, strict=True):
        if weights:
            adapted.pipeline.set_adapters(list(weights), list(weights.values()))
        wanted = (adapted if weights else plain).pixels(request).astype(int)
        assert np.abs(wanted - images[request.seed].pixels).max() <= 2, weights
        if weights == {"attention": 1}:
            assert np.abs(wanted - plain.pixels(request)).mean() > 10  # the LoRA does something


@of_sd
def test_company_changes_no_bit(folder, requests, images):
    """Other neighbours, lanes and slots, and too few of these: rows wait for one. A row without a LoRA is plain."""
    engine = Engine(folder, lanes=8)
    engine.family.loras.slot_bytes = 1  # one slot a lane set
    again = made(engine, [requests[i] for i in (6, 2, 7, 0, 5, 1, 4, 3)])
    assert all(np.array_equal(again[seed].pixels, image.pixels) for seed, image in images.items())
    (alone,) = made(Engine(folder, lanes=8), requests[:1]).values()
    assert np.array_equal(alone.pixels, images[requests[0].seed].pixels)


@of_sd
def test_a_file_that_is_not_finite_fails_the_rows_that_name_it(folder, files, tmp_path):
    tensors = load_file(files["everything"])
    broken = {"weights": "lora_unet_conv_in.lora_up.weight", "alpha": "lora_unet_conv_in.alpha"}
    requests = [Request("a red cat", steps=2, seed=9)]
    for what, name in broken.items():
        path = tmp_path / f"{what}.safetensors"
        save_file(tensors | {name: torch.full_like(tensors[name], float("nan"))}, path)
        requests.append(Request("a red cat", steps=2, seed=9, extra={"lora": str(path)}))
    errors = {image.index: image.error for image in Engine(folder, lanes=4).generate(requests)}
    assert errors.pop(0) is None
    assert all("conv_in" in error and "not finite" in error for error in errors.values()), errors


@of_sd
@pytest.mark.parametrize("options", [{"deep_cache": 2}, {"quantization": "int8"}, {"quantization": "fp8"}], ids=str)
def test_approximations_go_with_loras(options, folder, files):
    """A LoRA of weight 0 is none, one of some weight is, alone as in company: through the same approximated UNet."""
    rows = [None, f"{files['everything']}:0", str(files["everything"])]
    extras = [{"lora": lora} if lora else {} for lora in rows]
    limited = {"guidance_stop": 0.5, "steps": 4, "sampler": "ddim"}
    requests = [Request("a red cat", seed=3, extra=extra, **limited) for extra in extras]
    found = {image.index: image for image in Engine(folder, lanes=4, **options).generate(requests)}
    plain, zero, full = (found[i].pixels.astype(int) for i in range(3))
    assert np.abs(plain - zero).max() <= 1
    assert np.abs(plain - full).mean() > 5
    (alone,) = made(Engine(folder, lanes=4, **options), requests[2:]).values()
    assert np.array_equal(alone.pixels, full)


@of_sd
def test_merged_into_the_weights_it_is_the_same_picture_but_for_rounding(folder, files, requests, images):
    pair = requests[5]
    loras = loras_of(pair)
    merged = dataclasses.replace(pair, extra={"lora": Loras(pair.extra["lora"], loras, merged=True)})
    (image,) = made(Engine(folder, lanes=8, merged=loras), [merged]).values()
    assert np.abs(image.pixels.astype(int) - images[pair.seed].pixels).max() <= 2
