"""Kinds of checkpoints other than Stable Diffusion 1: each against diffusers' own pipeline."""

from __future__ import annotations

import dataclasses
import shutil

import checkpoints
import numpy as np
import pytest
import torch
from diffusers import LatentConsistencyModelPipeline, StableDiffusionPipeline, StableDiffusionXLPipeline
from diffusers.models.attention_processor import Attention
from references import Reference
from test_parity import assert_parity

from sdbatch.diffusion.engine import Engine
from sdbatch.diffusion.request import Request

REQUESTS = [
    Request("a red cat", seed=1, steps=6, sampler="ddim", guidance_scale=7.5),
    Request("two blue squares", "ugly", seed=2, steps=5, sampler="dpmpp_2m", guidance_scale=5.0),
    Request("ein Würfel 🎲", seed=3, steps=7, sampler="euler_a", guidance_scale=1.0),
    Request("long " * 40, "dull", seed=4, steps=4, sampler="ddpm", guidance_scale=3.0, height=48, width=80),
    Request("a red cat", seed=5, steps=4, sampler="heun", guidance_scale=2.0),
]

SD2 = {
    "prediction_type": "v_prediction",
    "text": {"hidden_act": "gelu"},
    "use_linear_projection": True,
    "attention_head_dim": (4, 8),
}
LIKE_TINY = {
    "addition_embed_type": "text",
    "addition_embed_type_num_heads": 4,
    "resnet_time_scale_shift": "scale_shift",
    "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D"),
    "up_block_types": ("CrossAttnUpBlock2D", "UpBlock2D"),
}


@pytest.mark.parametrize(
    "checkpoint",
    [
        SD2,
        SD2 | {"scheduler": {"rescale_betas_zero_snr": True, "timestep_spacing": "trailing"}},
        {"scheduler": {"timestep_spacing": "linspace", "steps_offset": 0}},
        LIKE_TINY,
        {"latent_channels": 8},
    ],
    ids=["sd2", "zero snr", "linspace", "text embedding", "8 latent channels"],
)
def test_stable_diffusion_of_every_kind(checkpoint, tmp_path):
    folder = checkpoints.build_sd(tmp_path / "model", **checkpoint)
    assert_parity(Reference(folder), list(Engine(folder, lanes=6).generate(REQUESTS)))


@pytest.mark.parametrize("checkpoint", [{}, {"force_zeros": False}, {"prediction_type": "v_prediction"}])
def test_sdxl_of_every_kind(checkpoint, tmp_path):
    folder = checkpoints.build_sdxl(tmp_path / "model", **checkpoint)
    reference = Reference(folder, StableDiffusionXLPipeline)
    assert_parity(reference, list(Engine(folder, lanes=6).generate(REQUESTS)))


@pytest.mark.parametrize("pipeline", [LatentConsistencyModelPipeline, StableDiffusionPipeline])
def test_guidance_that_is_embedded_takes_one_lane(pipeline, tmp_path):
    folder = checkpoints.build_sd(tmp_path / "model", time_cond_proj_dim=32, pipeline=pipeline)
    requests = [
        Request(f"prompt {i}", seed=i, steps=4 + i, sampler=s, guidance_scale=g)
        for i, (s, g) in enumerate([("lcm", 8.5), ("lcm", 1.0), ("lcm", 1.5)])
    ]
    engine = Engine(folder, lanes=4)
    assert engine.info.guidance_embedded
    assert_parity(Reference(folder, pipeline), list(engine.generate(requests)))


def test_guidance_rescale(sd):
    requests = [
        Request("a red cat", seed=i, steps=6, sampler="ddim", guidance_scale=g, guidance_rescale=r)
        for i, (g, r) in enumerate([(7.5, 0.7), (7.5, 0.0), (1.0, 0.7), (12.0, 1.0)])
    ]
    assert_parity(Reference(sd), list(Engine(sd, lanes=8).generate(requests)))


def test_guidance_in_an_interval(sd):
    requests = [
        Request("a red cat", "dull", seed=i, steps=8, sampler=s, guidance_start=start, guidance_stop=stop)
        for i, (s, start, stop) in enumerate(
            [("ddpm", 0.0, 0.5), ("ddim", 0.25, 0.8), ("dpmpp_2m", 0.5, 1.0), ("euler_a", 0.0, 1.0), ("ddim", 0.0, 0.1)]
        )
    ]
    engine = Engine(sd, lanes=4)
    images = list(engine.generate(requests))
    assert_parity(Reference(sd), images)
    # Each call takes a lane, and a second one up to the last with guidance.
    assert engine.counters["lane_calls_used"] == 8 * 5 + (4 + 6 + 8 + 8 + 0)
    different = list(engine.generate([dataclasses.replace(request, guidance_stop=1.0) for request in requests[:1]]))
    assert not np.array_equal(different[0].pixels, next(i.pixels for i in images if i.request is requests[0]))


@pytest.mark.parametrize("dtype", ["bf16", "fp16"])
def test_half_precision_is_no_farther_from_float32_than_diffusers_half_precision(sd, dtype):
    requests = [
        Request(f"prompt {i}", seed=i, steps=6, sampler=sampler, guidance_scale=g)
        for i, (sampler, g) in enumerate((sampler, g) for sampler in ("ddpm", "ddim", "euler_a") for g in (1.0, 7.5))
    ]
    images = {image.request.seed: image.pixels for image in Engine(sd, lanes=8, dtype=dtype).generate(requests)}
    exact = Reference(sd)
    half = Reference(sd, dtype={"bf16": torch.bfloat16, "fp16": torch.float16}[dtype])
    ours, theirs = [], []
    for request in requests:
        wanted = exact.pixels(request).astype(float)
        ours.append(np.abs(images[request.seed] - wanted).mean())
        theirs.append(np.abs(half.pixels(request) - wanted).mean())
    assert np.mean(ours) <= np.mean(theirs)


@pytest.mark.parametrize("build", [checkpoints.build_sd, checkpoints.build_sdxl])
def test_a_text_is_projected_once_and_not_at_every_step(build, tmp_path):
    engine = Engine(build(tmp_path / "model"), lanes=4)
    multiplied = []
    layers = [layer for layer in engine.family.denoiser.modules() if isinstance(layer, Attention)]
    crossing = [layer for layer in layers if layer.is_cross_attention]
    for layer in crossing:
        for linear in (layer.to_k, layer.to_v):
            linear.register_forward_hook(lambda *_: multiplied.append("keys or values"))
        layer.to_q.register_forward_hook(lambda *_: multiplied.append("queries"))
    list(engine.generate([Request("a red cat", "ugly", steps=3, sampler="ddim")]))
    assert multiplied == ["queries"] * 3 * len(crossing)


def test_self_attention_multiplies_once(sd):
    engine = Engine(sd, lanes=4)
    layers = [layer for layer in engine.family.denoiser.modules() if isinstance(layer, Attention)]
    inner = [layer for layer in layers if not layer.is_cross_attention]
    products = []
    for layer in inner:
        layer.to_qkv.register_forward_hook(lambda *_: products.append("all three"))
        assert not hasattr(layer, "to_q")
    list(engine.generate([Request("a red cat", steps=2, sampler="ddim")]))
    assert inner and len(products) == 2 * len(inner)


@pytest.mark.skipif(not shutil.which("g++"), reason="torch.compile needs a C++ compiler")
def test_a_compiled_unet_makes_the_same_pictures(tmp_path):
    folder = checkpoints.build_sd(tmp_path / "model", **LIKE_TINY)
    engine = Engine(folder, lanes=4, compile="on")
    assert engine.describe()["compile"] == "on"
    # Each size compiles once more, which takes most of the time.
    one_size = [request for request in REQUESTS if request.height is None]
    assert_parity(Reference(folder), list(engine.generate(one_size)))
