"""Products in eight bits: how far they are from whole ones, and that a row's bytes still depend on no other row."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import flow_checkpoints
import numpy as np
import pytest
import torch
from flow_references import engine as flow_engine
from ip_adapter_checkpoints import build_ip_adapters
from picture_rows import Picture, photo
from references import Reference
from torch.utils._python_dispatch import TorchDispatchMode

from sdbatch.diffusion.accelerate.quantization import Float8Linear, quantize_fp8, why_no_fp8
from sdbatch.diffusion.engine import Engine
from sdbatch.diffusion.models.inspection import inspect_model
from sdbatch.diffusion.models.loading import load_family
from sdbatch.diffusion.request import Request

ROWS = [Request(f"prompt {i % 3}", seed=i, steps=4 + i % 3, guidance_scale=(1, 7.5)[i % 2]) for i in range(8)]
CPU = torch.device("cpu")
# Half of the distance of two neighbours with four significant bits is at most this share of either.
ROUNDING = 2**-4
# The same of bfloat16, in which the product is returned.
OF_RESULT = 2**-8


@pytest.fixture(scope="module")
def flux(tmp_path_factory) -> Path:
    return flow_checkpoints.build_flux(tmp_path_factory.mktemp("models") / "flux")


def rounded(rows: torch.Tensor) -> torch.Tensor:
    """Numbers of four significant bits, the smallest 2^-9, of which each row's largest is 448: IEEE's e4m3, by hand."""
    scale = rows.double().abs().amax(dim=-1, keepdim=True).clamp(min=1e-9) / 448
    scaled = rows.double() / scale
    step = torch.exp2(scaled.abs().clamp(min=2**-6).log2().floor() - 3)
    return ((scaled / step).round() * step * scale).to(rows.dtype)


class Rounded(Reference):
    """diffusers' pipeline; the linear layers of its UNet multiply rounded numbers."""

    def __init__(self, folder):
        super().__init__(folder)
        for name, layer in self.pipeline.unet.named_modules():
            of_a_text = "attn2.to_k" in name or "attn2.to_v" in name
            if isinstance(layer, torch.nn.Linear) and not of_a_text:
                layer.weight.data = rounded(layer.weight.data)
                layer.forward = lambda x, layer=layer: (
                    (rounded(x) @ layer.weight.t()).bfloat16().to(x.dtype) + (0 if layer.bias is None else layer.bias)
                )


def linear(inputs: int, outputs: int) -> torch.nn.Linear:
    torch.manual_seed(0)
    return torch.nn.Linear(inputs, outputs).requires_grad_(False)


def in_fp8(layer: torch.nn.Linear) -> torch.nn.Module:
    network = torch.nn.Sequential(torch.nn.Linear(*reversed(layer.weight.shape)).requires_grad_(False))
    network[0].load_state_dict(layer.state_dict())
    quantize_fp8(network, set(), CPU)
    return network[0]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_a_product_is_as_close_as_four_bits_allow(dtype):
    """A factor is off by a sixteenth at most, and by 1/√3 of that in the mean, if all errors are as likely.

    So the errors of a sum of products have at most √2 of that as their mean, in shares of the root of the products'
    squares. A wrong scale adds its own error; one scale for all rows would leave nothing of the small ones.
    """
    layer = linear(256, 64)
    layer.bias.zero_()
    layer.weight *= torch.logspace(-3, 1, 64)[:, None]
    layer = layer.to(dtype)
    x = (torch.randn(3, 50, 256) * torch.logspace(-3, 2, 50)[:, None]).to(dtype)
    eight = in_fp8(layer)
    assert isinstance(eight, Float8Linear) and eight(x).dtype == dtype
    weight = layer.weight.double().t()
    off = eight(x).double() - x.double() @ weight
    shares = off.square() / (x.double().square() @ weight.square())
    expected = 2 * ROUNDING**2 / 3 + OF_RESULT**2
    # The rows' means over 64 numbers, the channels' over 150, which vary by a quarter.
    assert 0.25 * expected < shares.mean() < expected
    assert shares.mean(-1).max() < 1.5 * expected and shares.mean((0, 1)).max() < 1.5 * expected


def test_it_is_the_product_of_numbers_rounded_by_hand():
    layer = linear(64, 48)
    x = torch.randn(7, 64) * torch.logspace(-4, 3, 7)[:, None]
    x[3] = 0
    wanted = (rounded(x).double() @ rounded(layer.weight).double().t()).float()
    found = in_fp8(layer)(x) - layer.bias
    # Of a sum that rounds to the nearest bfloat16, and of that and the bias.
    assert (found - wanted).abs().le(wanted.abs() * OF_RESULT + 1e-6).all()
    assert (found[3] == 0).all()


def test_the_layout_of_the_input_in_memory_changes_nothing():
    """Nor does the product get rows that are not side by side, which GPUs refuse."""
    layer, x = in_fp8(linear(64, 48)), torch.randn(64, 20)
    strides = []

    class Spy(TorchDispatchMode):
        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            if "scaled_mm" in str(function):
                strides.append((args[0].stride(), args[1].stride()))
            return function(*args, **(kwargs or {}))

    with Spy():
        assert torch.equal(layer(x.t()), layer(x.t().contiguous()))
        layer(x.t()[None])
    assert strides == [((64, 1), (1, 64))] * 3


def test_a_row_depends_on_no_other():
    layer, x = in_fp8(linear(64, 48)), torch.randn(4, 5, 64)
    alone = layer(x)
    for neighbour in (0.0, 1e-20, 1e4, float("inf"), float("nan")):
        beside = x.clone()
        beside[[0, 1, 3]] = neighbour
        assert torch.equal(layer(beside)[2], alone[2])


def test_pictures_are_those_of_numbers_rounded_by_hand(sd):
    engine = Engine(sd, lanes=8, quantization="fp8")
    images = list(engine.generate(ROWS[:5]))
    assert engine.describe()["quantization"] == "fp8" and engine.describe()["lane_invariant"] is True
    by_hand, plain = Rounded(sd), {image.request.seed: image.pixels for image in Engine(sd, lanes=8).generate(ROWS[:5])}
    assert any(not np.array_equal(image.pixels, plain[image.request.seed]) for image in images)
    # A last bit decides to which of two numbers of four bits another is rounded.
    off = {row: by for row, by in by_hand.deviations(images).items() if by > max(2, by_hand.sensitivity(row))}
    assert not off, f"pixels off by more than rounding explains: {off}"


@pytest.mark.parametrize("deep_cache", [1, 2])
@pytest.mark.parametrize("model", ["sd", "flux"])
def test_bytes_are_the_same_alone_in_company_and_in_any_lane(model, deep_cache, request):
    folder, settings = request.getfixturevalue(model), {"quantization": "fp8", "deep_cache": deep_cache}
    make = flow_engine if model == "flux" else Engine
    rows = ROWS
    if model == "flux":
        rows = [dataclasses.replace(row, sampler="flow_euler", height=64, width=64) for row in ROWS[:4]]
    engine = make(folder, lanes=6, **settings)
    together = {image.request.seed: image.pixels for image in engine.generate(rows)}
    backwards = {image.request.seed: image.pixels for image in engine.generate(rows[::-1])}
    assert all(np.array_equal(together[seed], backwards[seed]) for seed in together)
    # A new engine, whose weights have been away, if they can be.
    other = make(folder, lanes=6, release_text_encoders="on" if model == "flux" else "off", **settings)
    for row, its_engine in zip(rows, [engine, engine, other], strict=False):
        (alone,) = its_engine.generate([row])
        assert np.array_equal(alone.pixels, together[row.seed])


@pytest.mark.long
def test_bytes_are_the_same_beside_other_rows_when_compiled(sd):
    engine = Engine(sd, lanes=4, quantization="fp8", compile="on")
    together = {image.request.seed: image.pixels.astype(int) for image in engine.generate(ROWS[:3])}
    for row in ROWS[:3]:
        (alone,) = engine.generate([row])
        assert np.array_equal(alone.pixels, together[row.seed])
    by_hand = Rounded(sd)
    for image in Engine(sd, lanes=4, quantization="fp8").generate(ROWS[:3]):
        off = np.abs(together[image.request.seed] - image.pixels).max()
        assert off <= max(2, by_hand.sensitivity(image.request))


def test_layers_that_a_family_keeps_whole_are_spared(sd, flux):
    for folder in (sd, flux):
        family = load_family(inspect_model(folder), "fp32", CPU)
        kept = family.keep_whole()
        quantize_fp8(family.denoiser, kept, CPU)
        layers = [layer for layer in family.denoiser.modules() if isinstance(layer, torch.nn.Linear)]
        assert {layer in kept for layer in layers} == {True, False}
        assert all(isinstance(layer, Float8Linear) is (layer not in kept) for layer in layers)


def test_layers_whose_widths_the_product_does_not_accept_are_left_as_they_are():
    network = torch.nn.Sequential(torch.nn.Linear(24, 32), torch.nn.Linear(32, 24), torch.nn.Conv2d(16, 16, 1))
    before = [type(layer) for layer in network]
    quantize_fp8(network, set(), CPU)
    assert [type(layer) for layer in network] == before


def test_a_gpu_that_is_too_old_is_named():
    assert why_no_fp8("2.13.0", None) is None
    assert all(why_no_fp8("2.13.0", new) is None for new in ((8, 9), (9, 0), (10, 0), (12, 0)))
    for old in ((7, 5), (8, 0), (8, 6)):
        assert f"needs a GPU of compute capability 8.9 or newer; this one has {old[0]}.{old[1]}" in why_no_fp8("2", old)


def test_image_prompts_are_those_of_whole_weights_and_rows_independent(sd, tmp_path_factory):
    """An IP-Adapter's own layers keep their weights; the features that they add are the same as without fp8."""
    adapters = build_ip_adapters(tmp_path_factory.mktemp("adapters") / "models", sd)
    names = [(adapters["plain"],), (), (adapters["plus"],), (adapters["plain"], adapters["plus"])]
    rows = [
        dataclasses.replace(
            row,
            extra={
                "ip_adapter": tuple(map(str, paths)),
                "ip_adapter_image": tuple(Picture(photo(50, 40, 10 * row.seed + j)) for j in range(len(paths))),
                "ip_adapter_scale": 0.8,
            }
            if paths
            else {},
        )
        for row, paths in zip(ROWS, names * 2, strict=True)
    ]
    engine = Engine(sd, lanes=6, quantization="fp8")
    together = pixels_of(engine, rows)
    backwards = pixels_of(engine, rows[::-1])
    assert all(np.array_equal(together[seed], backwards[seed]) for seed in together)
    other = Engine(sd, lanes=6, quantization="fp8")
    for row in rows[:4]:
        assert np.array_equal(pixels_of(other, [row])[row.seed], together[row.seed])
    # A row without a picture is that of a table without pictures.
    plain = pixels_of(other, ROWS)
    assert [np.array_equal(plain[row.seed], together[row.seed]) for row in rows] == [not row.extra for row in rows]
    pictures = torch.rand(2, 3, 32, 32)
    features = [
        next(iter(made.family.nets.ip_adapters.encoders(rows[2]).values())).encode(pictures)
        for made in (engine, Engine(sd, lanes=6))
    ]
    assert all(torch.equal(features[0][name], features[1][name]) for name in ("shown", "nothing"))
    # Rounding moves a picture less than the adapter does.
    whole = pixels_of(Engine(sd, lanes=6), rows)
    for row in rows:
        if row.extra:
            by_rounding = np.abs(whole[row.seed] - together[row.seed]).mean()
            assert 0 < by_rounding < np.abs(plain[row.seed] - together[row.seed]).mean()


def pixels_of(engine, rows):
    images = list(engine.generate(rows))
    assert [image.error for image in images] == [None] * len(rows)
    return {image.request.seed: image.pixels.astype(int) for image in images}
