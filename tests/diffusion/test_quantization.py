"""Weights in eight bits: they differ from the originals only by rounding, and so does the picture."""

from __future__ import annotations

import checkpoints
import flow_checkpoints
import numpy as np
import pytest
import torch
from references import Reference

from sdbatch.diffusion.accelerate.quantization import QUANTIZERS
from sdbatch.diffusion.calls import weight_bytes
from sdbatch.diffusion.engine import Engine
from sdbatch.diffusion.models.inspection import inspect_model
from sdbatch.diffusion.models.loading import load_family
from sdbatch.diffusion.preparation import Options, prepared_family
from sdbatch.diffusion.request import Request
from sdbatch.errors import UsageError

ROWS = [Request(f"prompt {i % 3}", seed=i, steps=4 + i % 3, guidance_scale=(1, 7.5)[i % 2]) for i in range(8)]


def rounded(weight: torch.Tensor) -> torch.Tensor:
    """255 steps between −1 and 1 times the largest weight of each output channel."""
    flat = weight.reshape(len(weight), -1).double()
    step = flat.abs().amax(dim=1, keepdim=True) / 127
    return ((flat / step).round() * step).reshape(weight.shape).to(weight.dtype)


class Rounded(Reference):
    """diffusers' pipeline, its UNet's weights rounded by hand."""

    def __init__(self, folder):
        super().__init__(folder)
        unet = self.pipeline.unet
        for name, module in unet.named_modules():
            of_a_text = "attn2.to_k" in name or "attn2.to_v" in name
            if isinstance(module, torch.nn.Linear | torch.nn.Conv2d) and name not in ("conv_in", "conv_out"):
                module.weight.data = module.weight.data if of_a_text else rounded(module.weight.data)


@pytest.mark.parametrize("deep_cache", [1, 2])
def test_pictures_are_those_of_rounded_weights(sd, deep_cache):
    engine = Engine(sd, lanes=8, quantization="int8", deep_cache=deep_cache)
    images = list(engine.generate(ROWS))
    assert engine.describe()["quantization"] == "int8" and engine.describe()["lane_invariant"] is True
    plain = {image.request.seed: image.pixels for image in Engine(sd, lanes=8, deep_cache=deep_cache).generate(ROWS)}
    assert any(not np.array_equal(image.pixels, plain[image.request.seed]) for image in images)
    if deep_cache == 1:
        off = {settings: by for settings, by in Rounded(sd).deviations(images).items() if by > 2}
        assert not off, f"pixels off by more than 2 of 255: {off}"


@pytest.mark.parametrize("magnitude", [1.0, 1e-2, 1e-3, 1e-4, 1e-5, 1e-7])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_no_weight_is_off_by_more_than_a_step(dtype, magnitude):
    layer = torch.nn.Linear(64, 512, bias=False).requires_grad_(False)
    layer.weight.copy_(torch.randn(512, 64, generator=torch.Generator().manual_seed(0)) * magnitude)
    layer.weight[0] = 0
    weight, finest = layer.to(dtype).weight.float().clone(), torch.finfo(dtype)
    QUANTIZERS["int8"](layer, set(), torch.device("cpu"))
    # The scale is in the weights' own dtype: 127 times it is off by up to 127 halves of the smallest number there.
    step = weight.abs().amax(dim=1, keepdim=True) / 127 + 64 * finest.tiny * finest.eps
    assert ((layer.weight.float() - weight).abs() <= step).all()


def size(denoiser: torch.nn.Module) -> int:
    return sum(tensor.nbytes for tensor in (*denoiser.parameters(), *denoiser.buffers()))


def test_the_unet_takes_little_more_than_a_quarter_of_the_memory():
    whole, eight = (Engine("tiny", quantization=quantization).family.denoiser for quantization in ("none", "int8"))
    assert size(eight) < 0.35 * size(whole)


@pytest.mark.parametrize("build", [None, checkpoints.build_sdxl, flow_checkpoints.build_flux])
def test_a_plan_knows_the_memory(build, tmp_path):
    """But for the scales, which are a few hundredths of weights as narrow as these."""
    info = inspect_model("tiny" if build is None else build(tmp_path / "model"))
    for quantization, quantize in QUANTIZERS.items():
        family = load_family(info, "fp32", torch.device("cpu"))
        quantize(family.denoiser, family.keep_whole(), torch.device("cpu"))
        estimated = weight_bytes(info, "fp32", quantization)
        assert estimated.denoiser == pytest.approx(size(family.denoiser), rel=0.04)
        assert estimated.others == weight_bytes(info, "fp32").others


@pytest.mark.parametrize("quantization", QUANTIZERS)
@pytest.mark.parametrize("build", [None, flow_checkpoints.build_flux])
def test_the_whole_denoiser_is_never_on_the_device(quantization, build, tmp_path, monkeypatch):
    """Each layer is in eight bits before the next comes: what fits in eight bits can be loaded."""
    info = inspect_model("tiny" if build is None else build(tmp_path / "model"))
    device = torch.device("meta")
    options = {"compile": "off", "compile_sizes": "", "deep_cache": 1, "merged": (), "find_adapter": None}
    options = Options(quantization=quantization, release_text_encoders="off", **options)
    whole = load_family(info, "fp32", torch.device("cpu")).denoiser
    families, peaks = [], []
    quantize, move = QUANTIZERS[quantization], torch.nn.Module.to

    def there() -> int:
        denoiser = families[0]
        return sum(x.nbytes for x in (*denoiser.parameters(), *denoiser.buffers()) if x.device == device)

    def spy(denoiser, *others):
        families.append(denoiser)
        assert there() == 0
        quantize(denoiser, *others)

    def spied(module, *arguments, **named):
        moved = move(module, *arguments, **named)
        if families:
            peaks.append(there())
        return moved

    monkeypatch.setattr(torch.Tensor, "pin_memory", lambda tensor: tensor)
    monkeypatch.setitem(QUANTIZERS, quantization, spy)
    monkeypatch.setattr(torch.nn.Module, "to", spied)
    family = prepared_family(info, "fp32", device, options)
    assert all(x.device == device for x in (*family.denoiser.parameters(), *family.denoiser.buffers()))
    assert len(peaks) > 20 and there() == size(family.denoiser) < size(whole)
    layers = [layer for layer in whole.modules() if isinstance(layer, torch.nn.Linear | torch.nn.Conv2d)]
    assert max(peaks) <= there() + max(layer.weight.nbytes for layer in layers)


def test_an_unknown_one_is_refused(sd):
    with pytest.raises(UsageError, match="int4"):
        Engine(sd, quantization="int4")
