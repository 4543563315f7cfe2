"""No single row, overflow or shortage of memory ends a run."""

from __future__ import annotations

import pytest
import torch

from sdbatch.diffusion.engine import Engine
from sdbatch.diffusion.families import StableDiffusion
from sdbatch.diffusion.request import Request
from sdbatch.errors import RunError

REQUESTS = [Request(f"prompt {i}", seed=i, steps=3 + i % 3, guidance_scale=7.5 if i % 2 else 1) for i in range(9)]


def pixels(images) -> dict[int, bytes]:
    return {image.request.seed: image.pixels.tobytes() for image in images if image.pixels is not None}


def poison(engine: Engine, seed: int) -> None:
    """Make the UNet overflow for one row: the one with that seed."""
    conditioning = engine.family.conditioning

    def overflowing(request, encoded, shape):
        lanes = conditioning(request, encoded, shape)
        factor = torch.inf if request.seed == seed else 1
        return [named | {"encoder_hidden_states": named["encoder_hidden_states"] * factor} for named in lanes]

    engine.family.conditioning = overflowing


def test_a_row_that_overflows_fails_alone(sd):
    expected = pixels(Engine(sd, lanes=4).generate(REQUESTS))
    engine = Engine(sd, lanes=4)
    poison(engine, seed=3)
    images = list(engine.generate(REQUESTS))
    errors = {image.request.seed: image.error for image in images if image.error}
    assert list(errors) == [3] and "not finite" in errors[3]
    del expected[3]
    assert pixels(images) == expected
    # Its lanes are clean for the next row.
    assert pixels(engine.generate(REQUESTS[:3])) == {seed: expected[seed] for seed in range(3)}


def test_a_row_that_overflows_in_half_precision_is_sampled_again_in_float32(sd):
    (expected,) = Engine(sd, lanes=2).generate(REQUESTS[3:4])
    engine = Engine(sd, lanes=4, dtype="bf16")
    poison(engine, seed=3)
    images = {image.request.seed: image for image in engine.generate(REQUESTS)}
    assert not [image.error for image in images.values() if image.error]
    assert (images[3].pixels == expected.pixels).all()


def test_a_decode_that_overflows_in_half_precision_is_decoded_again_in_float32(sd):
    engine = Engine(sd, lanes=4, dtype="bf16")
    (expected,) = engine.generate(REQUESTS[:1])
    engine.family.decode = lambda latents: torch.full((len(latents), 3, 64, 64), torch.nan)
    (image,) = engine.generate(REQUESTS[:1])
    difference = image.pixels.astype(int) - expected.pixels.astype(int)
    assert image.error is None and abs(difference).mean() < 2


def out_of_memory_above(function, most: int):
    """The function, on a simulated device whose memory holds batches up to the given size."""

    def limited(batch, *rest):
        if len(batch) > most:
            raise torch.OutOfMemoryError("CUDA out of memory (pretended)")
        return function(batch, *rest)

    return limited


def test_out_of_memory_halves_the_lanes_and_loses_no_row(sd):
    engine = Engine(sd, lanes=16)
    engine.family.denoise = out_of_memory_above(engine.family.denoise, most=4)
    images = list(engine.generate(REQUESTS))
    assert engine.lanes == engine.describe()["lanes"] == 4
    assert len(engine.describe()["out_of_memory"]) == 2
    assert pixels(images) == pixels(Engine(sd, lanes=4).generate(REQUESTS))


def test_out_of_memory_in_mid_run_restarts_rows(sd):
    engine = Engine(sd, lanes=8)
    images = []
    for request in REQUESTS:
        engine.submit(request)
    for _ in range(4):
        images += engine.step()
    engine.family.denoise = out_of_memory_above(engine.family.denoise, most=4)
    while not engine.idle:
        images += engine.step()
    assert sorted(image.index for image in images) == list(range(len(REQUESTS)))
    assert not [image.error for image in images if image.error]


def test_a_size_that_does_not_fit_fails_alone(sd):
    engine = Engine(sd, lanes=8)
    denoise = engine.family.denoise

    def too_large(latents, *rest):
        if latents.shape[-1] > 8:
            raise torch.OutOfMemoryError("CUDA out of memory (pretended)")
        return denoise(latents, *rest)

    engine.family.denoise = too_large
    images = list(engine.generate([*REQUESTS, Request("large", seed=99, steps=2, height=256, width=256)]))
    errors = {image.request.seed: image.error for image in images if image.error}
    assert list(errors) == [99] and "out of memory" in errors[99]
    assert engine.lanes == 8


def test_out_of_memory_in_the_decoder_decodes_fewer_at_once(sd):
    engine = Engine(sd, lanes=16)
    engine.family.decode = out_of_memory_above(engine.family.decode, most=1)
    assert len(pixels(engine.generate(REQUESTS))) == len(REQUESTS)
    engine.family.decode = out_of_memory_above(engine.family.decode, most=0)
    images = list(engine.generate(REQUESTS))
    assert len(images) == len(REQUESTS)
    assert all("out of memory" in image.error for image in images)


def test_the_start_up_check_is_recorded(sd):
    assert Engine(sd, lanes=8).describe()["lane_invariant"] is True


@pytest.mark.parametrize("dtype", ["bf16", "fp16"])
def test_neighbours_change_no_bit_in_half_precision(sd, dtype):
    engine = Engine(sd, lanes=8, dtype=dtype)
    together = pixels(engine.generate(REQUESTS))
    assert engine.describe()["lane_invariant"] is True
    for request in REQUESTS[::3]:
        assert pixels(engine.generate([request]))[request.seed] == together[request.seed]


def test_out_of_memory_at_the_start_takes_fewer_lanes(sd, monkeypatch):
    denoise = StableDiffusion.denoise

    def limited(family, latents, *rest):
        if len(latents) > most:
            raise torch.OutOfMemoryError("CUDA out of memory (pretended)")
        return denoise(family, latents, *rest)

    monkeypatch.setattr(StableDiffusion, "denoise", limited)
    most = 5
    engine = Engine(sd, lanes=16)
    assert engine.lanes == 4 and engine.describe()["out_of_memory"][-1] == "8 lanes halved to 4 at the start"
    most = 0
    with pytest.raises(RunError, match="does not fit on cpu with 2 lanes"):
        Engine(sd, lanes=16)
