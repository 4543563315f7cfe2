"""ControlNet Unions per row: the pictures of diffusers' pipelines, in any company."""

from __future__ import annotations

import random
from dataclasses import replace

import diffusers
import numpy as np
import pytest
from control_checkpoints import UNION, ControlPipelines, build_controlnet, build_union, edges
from picture_rows import Picture, mask, photo

from sdbatch.diffusion.engine import Engine
from sdbatch.diffusion.request import Request

SAMPLERS = ("ddim", "euler_a", "dpmpp_2m", "heun", "pndm", "ddpm")


@pytest.fixture(scope="module")
def nets(sdxl, tmp_path_factory):
    folder = tmp_path_factory.mktemp("unions")
    return [str(build_union(folder / str(seed), sdxl, seed)) for seed in range(2)]


def row(i: int, task: str = "text-to-image", size=(64, 64), images: int = 1, **extra) -> Request:
    shown = [Picture(edges(*size, seed=100 * i + j)) for j in range(images)]
    if images:
        extra["control_image"] = shown[0] if images == 1 else shown
    if task != "text-to-image":
        extra |= {"image": Picture(photo(*size, i)), "strength": (0.5, 0.8, 1.0)[i % 3]}
    if task == "inpainting":
        extra["mask_image"] = Picture(mask(*size, i))
    own = {"sampler": SAMPLERS[i % len(SAMPLERS)], "steps": (6, 8, 9)[i % 3], "guidance_scale": (5.0, 1.0, 5.0)[i % 3]}
    return Request(
        "a red cat", "ugly" if i % 2 else "", i, task=task, extra=extra, height=size[0], width=size[1], **own
    )


def rows_of(nets: list[str]) -> list[Request]:
    """One image and several, each with its own strength and calls; two nets; rows without; all tasks."""
    first, second = nets
    each = {"controlnet_conditioning_scale": (0.6, 1.2), "control_guidance_end": (0.5, 1.0)}
    three = {"controlnet": [first] * 3, "control_mode": [3, 0, 1], "control_guidance_start": [0.0, 0.4, 0.4]}
    return [
        row(0, controlnet=first, control_mode=0),
        row(1, controlnet=first, control_mode=3, controlnet_conditioning_scale=0.7, control_guidance_end=0.6),
        row(2, images=2, controlnet=[first, first], control_mode=[1, 2]),
        row(3, images=2, controlnet=[first, first], control_mode=[2, 0], **each),
        row(4, images=2, controlnet=[first, second], control_mode=[2, 1], controlnet_conditioning_scale=0.8),
        row(5, images=0),
        row(6, images=3, **three),
        row(7, "image-to-image", controlnet=first, control_mode=1),
        row(8, "inpainting", images=2, controlnet=[first, first], control_mode=[1, 3]),
        row(9, "inpainting", controlnet=second, control_mode=2, control_guidance_start=0.3),
        row(10, images=2, controlnet=[first, first], control_mode=[0, 0], control_guidance_end=0.4),
    ]


def made(engine: Engine, rows: list[Request]) -> dict[int, np.ndarray]:
    images = list(engine.generate(rows))
    assert [image.error for image in images if image.error] == []
    return {image.request.seed: image.pixels for image in images}


def test_rows_are_the_pictures_of_their_own_pipelines_in_any_company(sdxl, nets):
    rows = rows_of(nets)
    pixels = made(Engine(sdxl, lanes=8, device="cpu"), rows)
    again = made(Engine(sdxl, lanes=8, device="cpu"), random.Random(1).sample(rows, len(rows)))
    assert all(np.array_equal(pixels[seed], again[seed]) for seed in pixels)
    plain = Request("a red cat", "ugly", 5, **{n: getattr(rows[5], n) for n in ("sampler", "steps", "guidance_scale")})
    alone = made(Engine(sdxl, lanes=8, device="cpu"), [plain])
    assert np.array_equal(alone[5], pixels[5])
    union = diffusers.ControlNetUnionModel
    pipelines = ControlPipelines(sdxl, UNION, diffusers.StableDiffusionXLPipeline, union)
    off = {
        row.seed: int(np.abs(pixels[row.seed].astype(int) - pipelines.pixels(row)).max())
        for row in rows
        if "controlnet" in row.extra
    }
    assert max(off.values()) <= 2, off


def test_mode_and_image_move_the_picture(sdxl, nets):
    rows = [row(0, controlnet=nets[0], control_mode=mode) for mode in (0, 1)]
    other = replace(rows[0], extra={**rows[0].extra, "control_image": Picture(edges(64, 64, 9))})
    images = [image.pixels.astype(int) for image in Engine(sdxl, lanes=4, device="cpu").generate([*rows, other])]
    assert np.abs(images[0] - images[1]).mean() > 1
    assert np.abs(images[0] - images[2]).mean() > 1


def test_what_can_not_be_run_fails_its_own_row(sdxl, nets, tmp_path):
    plain = str(build_controlnet(tmp_path / "plain", sdxl, 0))
    wrong = {
        "control_mode must say what its image is, 0 to 3": row(0, controlnet=nets[0]),
        "control_mode 4: the modes of": row(1, controlnet=nets[0], control_mode=4),
        "is a plain ControlNet": row(2, controlnet=plain, control_mode=0),
        "guess_mode does not work with": row(3, controlnet=nets[0], control_mode=0, guess_mode=True),
        "control_mode has 3 values": row(4, images=2, controlnet=[nets[0]] * 2, control_mode=[0, 1, 2]),
        "is a ControlNet Union and": row(7, images=2, controlnet=[nets[0], plain], control_mode=0),
        "as in diffusers, a row has nets of one kind": row(8, images=2, controlnet=[plain, nets[0]]),
        f"{nets[0]} is a ControlNet Union and {plain} is not": row(
            9, images=2, controlnet=[plain, nets[0]], control_mode=[0, 1]
        ),
        "without a controlnet": row(5, images=0, control_mode=1),
    }
    good = row(6, controlnet=nets[0], control_mode=0)
    images = {i.request.seed: i for i in Engine(sdxl, lanes=4, device="cpu").generate([*wrong.values(), good])}
    for reason, request in wrong.items():
        assert reason in images[request.seed].error
    assert images[6].error is None
