"""Text encoders and denoiser take turns: the same bytes, never both present, one visit for a window of texts.

On a CPU, weights that are away are empty parameters, so a network that runs out of turn fails.
"""

from __future__ import annotations

import dataclasses
from contextlib import contextmanager
from types import SimpleNamespace

import flow_checkpoints
import pytest
import torch
from flow_references import engine, rows
from lora_checkpoints import build_transformer_loras

from sdbatch.diffusion.adapters.lora_rows import Lora, Loras
from sdbatch.diffusion.calls import weight_bytes
from sdbatch.diffusion.device import headroom
from sdbatch.diffusion.device.gpu_room import WeightBytes, room_on_gpus
from sdbatch.diffusion.device.residency import Residency
from sdbatch.diffusion.embeddings import Text, WindowedEmbeddings
from sdbatch.diffusion.models.inspection import inspect_model
from sdbatch.diffusion.request import Request
from sdbatch.errors import ModelError

BUILDERS = {
    "flux": flow_checkpoints.build_flux,
    "z-image": flow_checkpoints.build_z_image,
    "lumina2": flow_checkpoints.build_lumina_2,
    "sd3": flow_checkpoints.build_sd3,
}


@pytest.fixture(scope="module")
def models(tmp_path_factory) -> dict:
    folder = tmp_path_factory.mktemp("models")
    return {name: build(folder / name) for name, build in BUILDERS.items()}


def pictures(made, requests) -> dict[int, bytes]:
    images = list(made.generate(requests))
    assert [image.error for image in images] == [None] * len(requests)
    return {image.request.seed: image.pixels.tobytes() for image in images}


def watched(made) -> dict[str, int]:
    """Have the engine's family check at each call which weights are present; returns how many calls there were."""
    family, calls = made.family, {"encode": 0, "denoise": 0}
    encoders = [part for name, part in family.parts.items() if name.startswith("text_encoder")]
    weights = [weight for encoder in encoders for weight in encoder.parameters()]
    of_passes = [w for name, w in family.denoiser.named_parameters() if not name.startswith(family.text_modules)]
    assert weights and of_passes

    def wrap(name, here, away):
        run = getattr(family, name)

        def checked(*args, **kwargs):
            calls[name] += 1
            assert all(weight.numel() for weight in here) and not any(weight.numel() for weight in away)
            return run(*args, **kwargs)

        setattr(family, name, checked)

    wrap("encode", weights, of_passes)
    wrap("denoise", of_passes, weights)
    made._sampling._embeddings._encode = family.encode
    return calls


@pytest.mark.parametrize("name", BUILDERS)
def test_they_take_turns_and_no_byte_changes(name, models, tmp_path):
    requests = rows(("flow_euler",), (3.0, 1.0), steps=(2, 3), times=6)
    if name == "z-image":  # whose texts go through layers of the transformer that LoRAs change
        path = str(build_transformer_loras(tmp_path, models[name], kohya=False)["everything"])
        requests[3] = dataclasses.replace(requests[3], extra={"lora": Loras(path, (Lora(path, 0.8),))})
    kept = pictures(engine(models[name], release_text_encoders="off"), requests)
    made = engine(models[name], release_text_encoders="on")
    assert made.describe()["text_encoders_released"] is True
    calls = watched(made)
    visits = made.family.residency.visits
    assert pictures(made, requests) == kept
    assert calls["denoise"] > 0 and calls["encode"] > 0
    # One visit, although the rows have three sizes and wait for different lanes.
    assert made.family.residency.visits == visits + 1
    assert pictures(made, list(reversed(requests))) == kept
    assert made.family.residency.visits == visits + 1


def test_rows_that_are_submitted_later_are_another_window(models):
    made = engine(models["flux"], lanes=2, release_text_encoders="on")
    before = made.family.residency.visits
    options = {"sampler": "flow_euler", "steps": 2, "height": 64, "width": 64, "guidance_scale": 3.5}
    for i in range(12):
        made.submit(Request(f"number {i}", seed=i, **options))
    images = []
    while len(images) < 6:
        images += made.step()
    assert made.family.residency.visits == before + 1
    for i in range(12, 18):
        made.submit(Request(f"number {i}", seed=i, **options))
    while not made.idle:
        images += made.step()
    assert len(images) == 18 and made.family.residency.visits == before + 2


def test_running_out_of_memory_leaves_the_denoiser_in_place(models, monkeypatch):
    made = engine(models["flux"], lanes=8, release_text_encoders="on")
    run, failed = made.family.encode, []

    def encode(texts):
        if not failed:
            failed.append(True)
            raise torch.OutOfMemoryError("out of memory")
        return run(texts)

    made._sampling._embeddings._encode = encode
    requests = rows(("flow_euler",), (1.0,), steps=(2,), times=3)
    assert pictures(made, requests) == pictures(engine(models["flux"], lanes=4), requests)
    assert failed and made.lanes == 4


def test_tied_weights_and_nested_visits():
    encoder, denoiser = torch.nn.Linear(4, 4), torch.nn.Sequential(torch.nn.Linear(4, 4), torch.nn.Linear(4, 4))
    denoiser[1].weight = denoiser[0].weight
    before = [weight.clone() for weight in denoiser.parameters()]
    residency = Residency([encoder], denoiser, (), torch.device("cpu"))
    assert encoder.weight.numel() == 0
    with residency.encoding(), residency.encoding():
        assert encoder.weight.shape == (4, 4) and denoiser[1].weight.numel() == 0
    assert residency.visits == 1 and encoder.weight.numel() == 0
    assert all(map(torch.equal, denoiser.parameters(), before)) and denoiser[1].weight is denoiser[0].weight


ONE = 4 * 10  # bytes of an encoded text below


@pytest.mark.parametrize("capacity", [1, 12 * ONE, 100 * ONE])
def test_a_window_is_bounded_by_bytes(capacity):
    visits, encoded, is_here = [], [], []

    @contextmanager
    def visit():
        visits.append(True)
        is_here.append(True)
        yield
        is_here.pop()

    def encode(texts):
        assert is_here and len(texts) == 4
        encoded.extend(text.content for text in texts if text.content)
        return {"hidden": torch.tensor([float(text.content or -1) for text in texts])[:, None].repeat(1, 10)}

    embeddings = WindowedEmbeddings(encode, 4, torch.device("cpu"), visit, capacity)
    texts = [Text("prompt", str(i)) for i in range(60)]
    for i, text in enumerate(texts):
        ((got),) = embeddings.get([text], texts[i + 1 :])
        assert got["hidden"].tolist() == [float(i)] * 10
        kept = sum(other in embeddings._kept for other in texts)
        assert kept * ONE <= max(capacity, ONE)
    if capacity > ONE:
        # Every text was encoded once, a window at a time.
        assert sorted(map(int, encoded)) == list(range(60))
        assert len(visits) == -(-60 * ONE // capacity)


def test_a_gpu_with_too_little_memory_releases_them(models, monkeypatch):
    info = inspect_model(models["flux"])
    weights = weight_bytes(info, "bf16")
    tensors = sum(p.numel() for p in engine(models["flux"]).family.parts["text_encoder_2"].parameters())
    assert weights.text_encoders > 2 * tensors > 0 and weights.denoiser > 0 and weights.others > 0

    def released(memory: int, choice: str = "auto", device: str = "cuda", quantization: str = "none") -> bool:
        found = SimpleNamespace(total_memory=memory)
        monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: found)
        monkeypatch.setattr(headroom, "_share", lambda device: 0.5)
        return headroom.releases_text_encoders(info, "bf16", torch.device(device), choice, quantization)

    ample = 3 * weights.together
    assert not released(ample) and released(ample // 2) and released(ample, "on") and not released(ample // 2, "off")
    assert not released(ample // 2, device="cpu")
    # What counts is what the device holds: eight bits.
    between = int((weights.together + weight_bytes(info, "bf16", "int8").together) / 2 / 0.5 / 0.75)
    assert released(between) and not released(between, quantization="int8")
    tiny = inspect_model("tiny")
    assert not headroom.releases_text_encoders(tiny, "fp16", torch.device("cuda"), "auto")
    with pytest.raises(ModelError, match="whose text encoders are small"):
        headroom.releases_text_encoders(tiny, "fp16", torch.device("cuda"), "on")


def test_what_fits_on_a_gpu_in_turns():
    qwen_image = WeightBytes(text_encoders=16_600_000_000, denoiser=40_900_000_000, others=300_000_000)
    assert room_on_gpus(qwen_image) == (
        "too much for a GPU of 24 GB; leaves 7 of 48 GB, 22 of 80 GB for sampling "
        "(the text encoders' 17 GB leave the GPU meanwhile on 48 GB)"
    )
    assert room_on_gpus(qwen_image, "off") == "too much for a GPU of 24 or 48 GB; leaves 22 of 80 GB for sampling"
    assert room_on_gpus(qwen_image, "on") == (
        "too much for a GPU of 24 GB; leaves 7 of 48 GB, 39 of 80 GB for sampling "
        "(the text encoders' 17 GB leave the GPU meanwhile on 48 and 80 GB)"
    )
    eight_bits = WeightBytes(text_encoders=16_600_000_000, denoiser=20_600_000_000, others=300_000_000)
    assert room_on_gpus(eight_bits) == (
        "leaves 3 of 24 GB, 27 of 48 GB, 42 of 80 GB for sampling "
        "(the text encoders' 17 GB leave the GPU meanwhile on 24 and 48 GB)"
    )
    # The peak is that of the larger phase, also if it is the text encoders'.
    assert "1 of 24" not in str(room_on_gpus(WeightBytes(20_000_000_000, 3_000_000_000)))
    assert room_on_gpus(WeightBytes(20_000_000_000, 3_000_000_000)).startswith("leaves 4 of 24 GB")
