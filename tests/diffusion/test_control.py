"""ControlNets per row: the pictures of diffusers' pipelines, in the same passes as rows without."""

from __future__ import annotations

import itertools
import random
import shutil
from dataclasses import replace

import diffusers
import numpy as np
import pytest
import torch
from control_checkpoints import SD, SDXL, ControlPipelines, build_controlnet, edges
from picture_rows import Picture, mask, photo

from sdbatch.diffusion import preparation
from sdbatch.diffusion.adapters.net_settings import MAX_NETS
from sdbatch.diffusion.engine import Engine
from sdbatch.diffusion.request import Request

SAMPLERS = ("ddim", "euler_a", "dpmpp_2m", "heun", "pndm", "ddpm")


@pytest.fixture(scope="module")
def nets(sd, sdxl, tmp_path_factory):
    folder = tmp_path_factory.mktemp("nets")
    made = {
        kind: [build_controlnet(folder / f"{kind}{i}", model, i) for i in range(2)]
        for kind, model in (("sd", sd), ("sdxl", sdxl))
    }
    made["sd"].append(
        build_controlnet(
            folder / "pooled", sd, 3, global_pool_conditions=True, controlnet_conditioning_channel_order="bgr"
        )
    )
    return {kind: list(map(str, folders)) for kind, folders in made.items()}


def ways(nets: list[str]) -> list[dict]:
    """One net, two at once, part of the calls, guess mode, a pooled net; None for a row without."""
    first, second, *pooled = nets
    found = [
        {"controlnet": first},
        {"controlnet": first, "controlnet_conditioning_scale": 0.5, "control_guidance_end": 0.6},
        {"controlnet": second, "control_guidance_start": (0.3,), "control_guidance_end": [0.8]},
        {"controlnet": first, "guess_mode": True},
        {
            "controlnet": (first, second),
            "controlnet_conditioning_scale": (0.7, 0.9),
            "control_guidance_start": (0.0, 0.2),
            "control_guidance_end": (0.5, 1.0),
        },
    ]
    return [*found, *({"controlnet": net} for net in pooled), {}]


def row(task: str, i: int, way: dict, size=(64, 64), **options) -> Request:
    names = way.get("controlnet", ())
    count = 1 if isinstance(names, str) else len(names)
    images = [Picture(edges(*size, seed=100 * i + j)) for j in range(count)]
    extra = way | ({"control_image": images[0] if count == 1 else images} if names else {})
    if task != "text-to-image":
        extra |= {"image": Picture(photo(*size, i)), "strength": (0.5, 0.8, 1.0)[i % 3]}
    if task == "inpainting":
        extra["mask_image"] = Picture(mask(*size, i))
    prompt, negative = (("a red cat", ""), ("two blue squares", "ugly, blurry"))[i % 2]
    own = {"sampler": SAMPLERS[i % len(SAMPLERS)], "steps": (6, 8, 9)[i % 3], "guidance_scale": (5.0, 1.0, 5.0)[i % 3]}
    own |= {"height": size[0], "width": size[1]}
    return Request(prompt, negative, i, task=task, extra=extra, **own | options)


def made(engine: Engine, rows: list[Request]) -> dict[int, np.ndarray]:
    """Pixels by seed."""
    images = list(engine.generate(rows))
    assert [image.error for image in images if image.error] == []
    return {image.request.seed: image.pixels for image in images}


def rows_of(kind: str, nets: list[str], all_ways: bool) -> list[Request]:
    """Text to image in many ways, the other tasks in some."""
    found = ways(nets)
    if all_ways:
        tasks = [("text-to-image", way) for way in found * 3]
        tasks += itertools.product(["image-to-image", "inpainting"], found)
    elif kind == "sd":
        tasks = [("text-to-image", way) for way in found]
        tasks += [
            ("image-to-image", found[2]),
            ("image-to-image", {}),
            ("inpainting", found[4]),
            ("inpainting", found[0]),
        ]
    else:
        tasks = [("text-to-image", found[4]), ("text-to-image", {}), ("image-to-image", found[0])]
        tasks += [("inpainting", found[1]), ("text-to-image", found[3])]
    return [row(task, i, way) for i, (task, way) in enumerate(tasks)]


@pytest.mark.parametrize("all_ways", [False, pytest.param(True, marks=pytest.mark.long)])
@pytest.mark.parametrize("kind", ["sd", "sdxl"])
def test_rows_are_the_pictures_of_their_own_pipelines_in_any_company(kind, all_ways, request, nets):
    folder = request.getfixturevalue(kind)
    rows = rows_of(kind, nets[kind], all_ways)
    if kind == "sd":
        rows.append(row("inpainting", len(rows), ways(nets[kind])[0] | {"padding_mask_crop": 8}, size=(96, 96)))
    engine = Engine(folder, lanes=8, device="cpu")
    pixels = made(engine, rows)
    shuffled = random.Random(1).sample(rows, len(rows))
    again = made(Engine(folder, lanes=8, device="cpu"), shuffled)
    assert all(np.array_equal(pixels[seed], again[seed]) for seed in pixels)
    without = [row for row in rows if "controlnet" not in row.extra]
    alone = made(Engine(folder, lanes=8, device="cpu"), without)
    assert all(np.array_equal(pixels[seed], alone[seed]) for seed in alone)
    classes = (SD, diffusers.StableDiffusionPipeline) if kind == "sd" else (SDXL, diffusers.StableDiffusionXLPipeline)
    pipelines = ControlPipelines(folder, *classes)
    off = {
        f"{row.seed} {row.task} {row.sampler}": int(np.abs(pixels[row.seed].astype(int) - pipelines.pixels(row)).max())
        for row in rows
        if "controlnet" in row.extra
    }
    assert max(off.values()) <= 2, off


def test_a_control_image_is_obeyed_and_gives_the_size(sd, nets):
    way = {"controlnet": nets["sd"][0]}
    engine = Engine(sd, lanes=4, device="cpu")
    first = row("text-to-image", 0, way, height=None, width=None, size=(48, 80))
    other = replace(first, extra={**first.extra, "control_image": Picture(edges(48, 80, 9))})
    images = list(engine.generate([first, other]))
    assert [image.pixels.shape for image in images] == [(48, 80, 3)] * 2
    assert np.abs(images[0].pixels.astype(int) - images[1].pixels).mean() > 2


@pytest.mark.parametrize(("spare", "kept"), [(0, MAX_NETS), (1 << 40, 6)])
def test_more_nets_than_are_kept_take_turns(sd, nets, tmp_path, monkeypatch, spare, kept):
    monkeypatch.setattr(preparation, "spare_bytes", lambda device: spare)
    copies = [shutil.copytree(nets["sd"][0], tmp_path / str(i)) for i in range(6)]
    rows = [row("text-to-image", 0, {"controlnet": str(net)}) for net in copies]
    engine = Engine(sd, lanes=16, device="cpu")
    loads, load = [], engine.family.nets.controls.nets._load
    engine.family.nets.controls.nets._load = lambda name: loads.append(name) or load(name)
    images = list(engine.generate(rows))
    assert [image.error for image in images] == [None] * 6
    passes = engine.family.nets.controls.calls // 6
    # Each pass runs all six: those in memory first, then the two others.
    assert len(loads) == 6 if kept == 6 else len(loads) <= 2 * 6 + 2 * passes
    assert all(np.array_equal(image.pixels, images[0].pixels) for image in images)
    assert len([*engine.family.nets.controls.nets]) == kept


def test_what_can_not_be_run_fails_its_own_row(sd, sdxl, nets, tmp_path):
    one = nets["sd"][0]
    (tmp_path / "empty").mkdir()
    wrong = {
        "no such folder": row("text-to-image", 0, {"controlnet": str(tmp_path / "none")}),
        "not a ControlNet's folder": row("text-to-image", 1, {"controlnet": str(tmp_path / "empty")}),
        "made for a different model": row("text-to-image", 2, {"controlnet": nets["sdxl"][0]}),
        "one is needed for each": Request("a", seed=3, extra={"controlnet": one}),
        "without a controlnet": Request("a", seed=4, extra={"control_image": Picture(edges(64, 64, 1))}),
        "less than control_guidance_end": row(
            "text-to-image", 5, {"controlnet": one, "control_guidance_start": 0.5, "control_guidance_end": 0.5}
        ),
        "has 2 values": row("text-to-image", 6, {"controlnet": one, "controlnet_conditioning_scale": (1.0, 2.0)}),
    }
    good = row("text-to-image", 7, {"controlnet": one}, steps=2)
    images = {
        image.request.seed: image for image in Engine(sd, lanes=4, device="cpu").generate([*wrong.values(), good])
    }
    for reason, request in wrong.items():
        assert reason in images[request.seed].error
    assert images[7].error is None
    (image,) = Engine(sd, lanes=4, device="cpu", deep_cache=2).generate([good])
    assert "does not work with deep-cache" in image.error


@pytest.mark.parametrize(
    "options",
    [{"quantization": "int8"}, {"quantization": "fp8"}, pytest.param({"compile": "on"}, marks=pytest.mark.long)],
    ids=str,
)
def test_neighbours_change_no_byte_with(options, sd, nets):
    """Compiled, rows with nets have lanes of their own, and those without must not notice; that takes minutes."""
    rows = [row("text-to-image", i, way, steps=3) for i, way in enumerate([{}, ways(nets["sd"])[0], {}])]
    engine = Engine(sd, lanes=4, device="cpu", **options)
    together, alone = made(engine, rows), [made(engine, [row]) for row in rows]
    assert all(np.array_equal(together[seed], pixels) for one in alone for seed, pixels in one.items())


def test_a_net_that_does_not_fit_into_memory_costs_lanes_or_its_rows(sd, nets, monkeypatch):
    way = {"controlnet": nets["sd"][0]}
    rows = [row("text-to-image", i, way if i % 2 else {}, guidance_scale=1.0) for i in range(4)]
    engine, load = Engine(sd, lanes=8), diffusers.ControlNetModel.from_pretrained

    def fits(lanes: int) -> None:
        def limited(*arguments, **named):
            if engine.lanes > lanes:
                raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
            return load(*arguments, **named)

        monkeypatch.setattr(diffusers.ControlNetModel, "from_pretrained", limited)

    fits(lanes=4)
    assert [image.error for image in engine.generate(rows)] == [None] * 4 and engine.lanes == 4
    engine = Engine(sd, lanes=8)
    fits(lanes=0)
    made = {image.index: image.error for image in engine.generate(rows)}
    assert all("out of memory with only 2 lanes" in made[i] for i in (1, 3)) and (made[0], made[2]) == (None, None)
