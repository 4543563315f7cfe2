"""Rows of diffusion transformers with LoRAs of their own share passes, and each is diffusers' picture with peft."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple

import flow_checkpoints
import numpy as np
import pytest
import torch
from flow_references import Arguments, Reference, distance, engine
from lora_checkpoints import build_transformer_loras
from safetensors.torch import load_file, save_file

from sdbatch.diffusion.adapters.lora_bank import LoraBank
from sdbatch.diffusion.adapters.lora_files import lora_model
from sdbatch.diffusion.adapters.lora_rows import Loras, loras_of
from sdbatch.diffusion.engine import Engine
from sdbatch.diffusion.models.inspection import inspect_model
from sdbatch.diffusion.request import GeneratedImage, Request
from sdbatch.errors import AdapterError, InputError
from sdbatch.plan.planning import make_plan
from sdbatch.settings import RunSettings


class Kind(NamedTuple):
    """A checkpoint; how its pipeline is called; whether diffusers reads files for it in kohya's plain names."""

    build: Callable[[Path], Path]
    arguments: Arguments
    kohya: bool = False


def guided(request: Request) -> dict:
    return {"guidance_scale": request.guidance_scale}


KINDS = {
    "flux": Kind(flow_checkpoints.build_flux, guided),
    "chroma": Kind(flow_checkpoints.build_chroma, guided),
    "dev": Kind(flow_checkpoints.build_flux2_dev, guided),
    "klein": Kind(lambda folder: flow_checkpoints.build_klein(folder, distilled=False), guided),
    "sd3": Kind(
        flow_checkpoints.build_sd3,
        lambda request: {"guidance_scale": request.guidance_scale, "negative_prompt": request.negative_prompt},
    ),
    "z-image": Kind(flow_checkpoints.build_z_image, guided, kohya=True),
    "qwen-image": Kind(
        flow_checkpoints.build_qwen_image,
        lambda request: {"true_cfg_scale": request.guidance_scale, "negative_prompt": request.negative_prompt or None},
        kohya=True,
    ),
}
WEIGHTS = (
    {},
    {"attention": 1},
    {"everything": 0.8},
    {"attention": 0.6, "everything": 0.5},
    {"wide": -0.5},
    {"wide": 1, "attention": 1},
)
TEXTS = (("a red fox", ""), ("misty forest at dawn, " * 9, "dull"))


# Their text encoders have some 30 layers.
SLOW = ("dev", "klein")


@pytest.fixture(
    scope="module", params=[pytest.param(kind, marks=pytest.mark.long) if kind in SLOW else kind for kind in KINDS]
)
def kind(request) -> str:
    return request.param


@pytest.fixture(scope="module")
def folder(kind, tmp_path_factory) -> Path:
    return KINDS[kind].build(tmp_path_factory.mktemp("models") / kind)


@pytest.fixture(scope="module")
def files(kind, folder, tmp_path_factory) -> Mapping[str, Path]:
    return build_transformer_loras(tmp_path_factory.mktemp("loras"), folder, kohya=KINDS[kind].kohya)


@pytest.fixture(scope="module")
def requests(kind, files) -> list[Request]:
    negative = kind == "qwen-image"
    return [
        Request(
            TEXTS[i % 2][0],
            TEXTS[i % 2][1] if negative else "",
            seed=500 + i,
            sampler="flow_euler",
            steps=2 + i % 2,
            guidance_scale=3.0,
            height=64,
            width=64,
            extra={"lora": named(files, weights)} if weights else {},
        )
        for i, weights in enumerate(WEIGHTS)
    ]


@pytest.fixture(scope="module")
def images(folder, requests) -> dict[int, GeneratedImage]:
    return made(engine(folder), requests)


def named(files: Mapping[str, Path], weights: Mapping[str, float]) -> str:
    return ";".join(f"{files[name]}:{weight}" for name, weight in weights.items())


def made(engine: Engine, requests: list[Request]) -> dict[int, GeneratedImage]:
    found = {requests[image.index].seed: image for image in engine.generate(requests)}
    assert {image.error for image in found.values()} == {None}
    return found


def test_each_row_is_diffusers_picture_with_peft(kind, folder, files, requests, images):
    plain, adapted = (Reference(folder, KINDS[kind].arguments) for _ in range(2))
    for name, path in files.items():
        adapted.pipeline.load_lora_weights(str(path), adapter_name=name)
    for request, weights in zip(requests, WEIGHTS, strict=True):
        if weights:
            adapted.pipeline.set_adapters(list(weights), list(weights.values()))
        wanted = (adapted if weights else plain).pixels(request)
        assert distance(wanted, images[request.seed].pixels) <= 2, weights
        if weights:
            assert distance(wanted, plain.pixels(request)) > 6  # the LoRA does something


def test_company_changes_no_bit(folder, requests, images):
    """Other neighbours, lanes and slots, and too few of these: rows wait for one. A row without a LoRA is plain."""
    fewer = engine(folder)
    fewer.family.loras.slot_bytes = 1  # one slot a lane set
    again = made(fewer, [requests[i] for i in (4, 2, 0, 5, 1, 3)])
    assert all(np.array_equal(again[seed].pixels, image.pixels) for seed, image in images.items())
    (alone,) = made(engine(folder), requests[:1]).values()
    assert np.array_equal(alone.pixels, images[requests[0].seed].pixels)


@pytest.mark.parametrize("kind", ["z-image"], indirect=True, scope="module")
def test_merged_into_the_weights_it_is_the_same_picture_but_for_rounding(folder, requests, images):
    pair = requests[3]
    loras = loras_of(pair)
    merged = dataclasses.replace(pair, extra={"lora": Loras(pair.extra["lora"], loras, merged=True)})
    (image,) = made(engine(folder, merged=loras), [merged]).values()
    assert distance(image.pixels, images[pair.seed].pixels) <= 2


def test_what_does_not_fit_is_refused_from_its_header(folder, files, tmp_path):
    model = lora_model(inspect_model(folder))
    tensors = load_file(files["attention"])
    down = next(name for name in tensors if name.endswith("lora_A.weight"))
    own, up = down.removesuffix(".lora_A.weight"), down.replace("lora_A", "lora_B")
    short = tensors | {up: tensors[up][:, :2].contiguous()}
    two = {half: torch.zeros(4, 4) for half in ("lora_A.weight", "lora_B.weight")}
    cases = {
        f"layer {own}: has the ranks 4 and 2; expected two equal ranks from 1 to 512": short,
        "layer transformer.elsewhere: ": {f"transformer.elsewhere.{half}": tensor for half, tensor in two.items()},
        "is a LoRA of a UNet (": {f"unet.down_blocks.0.to_q.{half}": tensor for half, tensor in two.items()},
        "is a LoRA that changes a text encoder of a transformer model (": {
            f"text_encoder.layers.0.q_proj.{half}": tensor for half, tensor in two.items()
        },
    }
    for i, (reason, content) in enumerate(cases.items()):
        path = tmp_path / f"{i}.safetensors"
        save_file(content, path)
        with pytest.raises(AdapterError) as refused:
            LoraBank(model, torch.float32).header(str(path))
        assert str(refused.value).startswith(f"{path}: {reason}")
    table = tmp_path / "prompts.csv"
    table.write_text(f"prompt,lora\na red fox,{files['attention']}\na blue fox,0.safetensors\n")
    with pytest.raises(InputError, match=r"row 1 \(from 0\), lora: 0\.safetensors: .* has the ranks 4 and 2"):
        make_plan(str(table), str(tmp_path / "out"), RunSettings(model=str(folder)))


def test_kohyas_names_of_flux_are_those_that_diffusers_converts(kohya_flux):
    """Layers that are one in its file are several in the model."""
    folder, path = kohya_flux
    request = Request("a red fox", seed=3, sampler="flow_euler", steps=2, guidance_scale=3.0, height=64, width=64)
    reference = Reference(folder, guided)
    plain = reference.pixels(request)
    reference.pipeline.load_lora_weights(str(path), adapter_name="x")
    wanted = reference.pixels(request)
    lora = dataclasses.replace(request, extra={"lora": str(path)})
    (image,) = made(engine(folder, lanes=2), [lora]).values()
    assert distance(wanted, image.pixels) <= 2
    assert distance(wanted, plain) > 6


def test_kohyas_first_layer_of_a_single_block_is_four(kohya_flux, tmp_path):
    """diffusers converts it for a model of FLUX.1's own width only, so here it is split by hand."""
    folder, _ = kohya_flux
    generator = torch.Generator().manual_seed(2)
    down, up = torch.randn(4, 64, generator=generator) / 8, torch.randn(3 * 64 + 256, 4, generator=generator) / 2
    own = "lora_unet_single_blocks_1_linear1"
    save_file({f"{own}.lora_down.weight": down, f"{own}.lora_up.weight": up}, tmp_path / "one.safetensors")
    block, split = "transformer.single_transformer_blocks.1", {}
    for layer, part in zip(
        ("attn.to_q", "attn.to_k", "attn.to_v", "proj_mlp"), up.split([64, 64, 64, 256]), strict=True
    ):
        split |= {f"{block}.{layer}.lora_A.weight": down.clone(), f"{block}.{layer}.lora_B.weight": part.clone()}
    save_file(split, tmp_path / "four.safetensors")
    bank = LoraBank(lora_model(inspect_model(folder)), torch.float32)
    one, four = (bank.factors(str(tmp_path / f"{name}.safetensors")) for name in ("one", "four"))
    assert one.keys() == four.keys() and len(one) == 4
    for layer, factors in four.items():
        assert torch.equal(one[layer].down, factors.down) and torch.equal(one[layer].up, factors.up)


@pytest.fixture(scope="module", params=["flux", "chroma"])
def kohya_flux(request, tmp_path_factory) -> tuple[Path, Path]:
    """FLUX.1 or Chroma, and a file in kohya's names for some layers of its blocks."""
    folder = tmp_path_factory.mktemp("kohya")
    shapes = {
        "double_blocks_0_img_attn_qkv": (64, 192),
        "double_blocks_1_txt_attn_qkv": (64, 192),
        "double_blocks_0_img_attn_proj": (64, 64),
        "double_blocks_0_txt_mlp_0": (64, 256),
        "double_blocks_1_img_mod_lin": (64, 384),
        "single_blocks_0_linear2": (320, 64),
        "single_blocks_1_modulation_lin": (64, 192),
    }
    generator = torch.Generator().manual_seed(1)
    tensors = {}
    for name, (inputs, outputs) in shapes.items():
        if request.param == "chroma" and "_mod" in name:
            continue  # Chroma has none
        tensors[f"lora_unet_{name}.lora_down.weight"] = torch.randn(4, inputs, generator=generator) / inputs**0.5
        tensors[f"lora_unet_{name}.lora_up.weight"] = torch.randn(outputs, 4, generator=generator) / 4
        tensors[f"lora_unet_{name}.alpha"] = torch.tensor(6.0)
    save_file(tensors, folder / "kohya.safetensors")
    return KINDS[request.param].build(folder / "model"), folder / "kohya.safetensors"
