"""T2I-Adapters per row: the pictures of diffusers' pipelines, in the same passes as rows without."""

from __future__ import annotations

import json
import random
import shutil
from dataclasses import replace
from pathlib import Path

import diffusers
import numpy as np
import pytest
from checkpoints import build_sd, build_sdxl
from control_checkpoints import SD, ControlPipelines, build_controlnet, edges
from ip_adapter_checkpoints import build_ip_adapters
from lora_checkpoints import build_loras
from picture_rows import Picture, Pipelines, photo
from t2i_adapter_checkpoints import WIDTHS, AdapterPipelines, adding, build_t2i_adapter

from sdbatch.diffusion import preparation
from sdbatch.diffusion.adapters.net_settings import MAX_NETS
from sdbatch.diffusion.engine import Engine
from sdbatch.diffusion.request import Request

SAMPLERS = ("ddim", "euler_a", "dpmpp_2m", "heun", "pndm", "ddpm")
CROSS, PLAIN = "CrossAttnDownBlock2D", "DownBlock2D"


def build_deep_sd(folder: Path) -> Path:
    """Stable Diffusion whose UNet has three blocks on the way down, the last one without attention."""
    return build_sd(
        folder,
        block_out_channels=WIDTHS,
        down_block_types=(CROSS, CROSS, PLAIN),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D"),
    )


def build_deep_sdxl(folder: Path) -> Path:
    """Stable Diffusion XL with the blocks of the published model: the first one without attention."""
    return build_sdxl(
        folder,
        block_out_channels=WIDTHS,
        down_block_types=(PLAIN, CROSS, CROSS),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
    )


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    return {"sd": build_deep_sd(folder / "sd"), "sdxl": build_deep_sdxl(folder / "sdxl")}


@pytest.fixture(scope="module")
def adapters(tmp_path_factory):
    folder = tmp_path_factory.mktemp("adapters")
    made = {
        "sd": [
            build_t2i_adapter(folder / "full", "full_adapter", 1),
            build_t2i_adapter(folder / "light", "light_adapter", 2),
            build_t2i_adapter(folder / "gray", "full_adapter", 3, in_channels=1),
        ],
        "sdxl": [
            build_t2i_adapter(folder / "xl", "full_adapter_xl", 4),
            build_t2i_adapter(folder / "xl gray", "full_adapter_xl", 5, in_channels=1),
        ],
    }
    return {kind: list(map(str, found)) for kind, found in made.items()}


def row(i: int, *adapters: str, size=(64, 64), extra=None, **options) -> Request:
    images = [Picture(photo(*size, 10 * i + j)) for j in range(len(adapters))]
    given = {"t2i_adapter": adapters, "adapter_image": images} if adapters else {}
    prompt, negative = (("a red cat", ""), ("two blue squares", "ugly, blurry"))[i % 2]
    own = {"sampler": SAMPLERS[i % len(SAMPLERS)], "steps": (4, 5, 6)[i % 3], "guidance_scale": (5.0, 5.0, 1.0)[i % 3]}
    own |= {"height": size[0], "width": size[1]}
    return Request(prompt, negative, i, extra=given | (extra or {}), **own | options)


def rows_of(kind: str, adapters: list[str], everything: bool) -> list[Request]:
    """Each adapter, two at once, one at half its strength; rows without; for XL in part of the calls."""
    first, second, *_ = adapters
    two = {"adapter_conditioning_scale": (0.5, 0.75)}
    ways = [*(((one,), {}) for one in adapters), ((), {}), ((first, second), two), ((), {})]
    if kind == "sd":
        ways += [((first,), {"adapter_conditioning_scale": 0.5})]
    else:
        ways += [((first,), {"adapter_conditioning_factor": 0.5}), ((second,), {"adapter_conditioning_factor": 0.0})]
    if everything:
        ways += [((second, first), {}), ((second,), {"adapter_conditioning_scale": -0.5})]
        ways = [way for way in ways for _ in range(len(SAMPLERS) + 1)]
    return [row(i, *names, extra=extra) for i, (names, extra) in enumerate(ways)]


def made(engine: Engine, rows: list[Request]) -> dict[int, np.ndarray]:
    """Pixels by seed."""
    images = list(engine.generate(rows))
    assert [image.error for image in images if image.error] == []
    return {image.request.seed: image.pixels for image in images}


@pytest.mark.parametrize("everything", [False, pytest.param(True, marks=pytest.mark.long)])
@pytest.mark.parametrize("kind", ["sd", "sdxl"])
def test_rows_are_the_pictures_of_their_own_pipelines_in_any_company(kind, everything, folders, adapters):
    rows = rows_of(kind, adapters[kind], everything)
    pixels = made(Engine(folders[kind], lanes=6, device="cpu"), rows)
    again = made(Engine(folders[kind], lanes=6, device="cpu"), random.Random(1).sample(rows, len(rows)))
    assert all(np.array_equal(pixels[seed], again[seed]) for seed in pixels)
    without = [replace(row, extra={}) for row in rows if not row.extra or row.seed < 2]
    plain = made(Engine(folders[kind], lanes=6, device="cpu"), without)
    assert all(np.array_equal(pixels[row.seed], plain[row.seed]) for row in rows if not row.extra)
    assert all(np.abs(pixels[seed].astype(int) - plain[seed]).mean() > 2 for seed in range(2))
    pipelines = AdapterPipelines(folders[kind])
    off = {
        f"{row.seed} {row.sampler} {row.extra}": int(np.abs(pixels[row.seed].astype(int) - pipelines.pixels(row)).max())
        for row in rows
        if row.extra
    }
    assert max(off.values()) <= 2, off


def test_they_go_with_image_to_image_controlnets_loras_and_ip_adapters(folders, adapters, tmp_path):
    folder, one = folders["sd"], adapters["sd"][0]
    control = {"controlnet": str(build_controlnet(tmp_path / "net", folder, 1))}
    control |= {"control_image": Picture(edges(64, 64, 1))}
    shown = {"ip_adapter": str(build_ip_adapters(tmp_path / "models", folder)["plain"])}
    shown |= {"ip_adapter_image": Picture(photo(50, 40, 3))}
    lora = {"lora": str(build_loras(tmp_path / "loras", folder)["attention"])}
    picture = {"image": Picture(photo(64, 64, 5)), "strength": 0.8}
    rows = [
        row(0, one, extra=control),
        row(1, one, extra=picture, task="image-to-image"),
        row(2, one, extra=control | shown | lora),
        row(3, extra=control),
        row(4, one, extra=shown),
        row(6),
    ]
    engine = Engine(folder, lanes=6, device="cpu")
    together, alone = made(engine, rows), {}
    for only in rows:
        alone |= made(engine, [only])
    assert all(np.array_equal(together[seed], alone[seed]) for seed in alone)
    without = {"t2i_adapter", "adapter_image"}
    bare = [replace(r, extra={k: v for k, v in r.extra.items() if k not in without}) for r in rows[:3]]
    assert all(np.abs(p.astype(int) - together[seed]).mean() > 2 for seed, p in made(engine, bare).items())

    controlled = ControlPipelines(folder, SD, diffusers.StableDiffusionPipeline)
    with adding(controlled._plain.unet, rows[0]):
        assert np.abs(together[0].astype(int) - controlled.pixels(rows[0])).max() <= 2
    pipelines = Pipelines(folder, {"image-to-image": diffusers.StableDiffusionImg2ImgPipeline})
    with adding(pipelines._pipelines["image-to-image"].unet, rows[1]):
        assert np.abs(together[1].astype(int) - pipelines.pixels(rows[1])).max() <= 2


def test_the_image_gives_the_size_in_multiples_of_what_the_adapter_halves(folders, adapters):
    for kind, size in (("sd", (72, 88)), ("sdxl", (64, 80))):
        first = row(0, adapters[kind][0], size=(75, 90), height=None, width=None)
        (image,) = Engine(folders[kind], lanes=4, device="cpu").generate([first])
        assert image.error is None and image.pixels.shape[:2] == size
        pixels = AdapterPipelines(folders[kind]).pixels(first)
        assert np.abs(image.pixels.astype(int) - pixels).max() <= 2
    odd = row(0, adapters["sdxl"][0], size=(72, 64))
    picture = {"image": Picture(photo(72, 64, 1))}
    given = row(1, adapters["sdxl"][0], extra=picture, task="image-to-image", height=None, width=None)
    for image in Engine(folders["sdxl"], lanes=4, device="cpu").generate([odd, given]):
        assert image.error == "with a t2i_adapter, height and width must be multiples of 16, not 72"


@pytest.mark.parametrize(("spare", "kept"), [(0, MAX_NETS), (1 << 40, 6)])
def test_more_nets_than_are_kept_take_turns(folders, adapters, tmp_path, monkeypatch, spare, kept):
    monkeypatch.setattr(preparation, "spare_bytes", lambda device: spare)
    copies = [shutil.copytree(adapters["sd"][1], tmp_path / str(i)) for i in range(6)]
    rows = [replace(row(0, str(net)), steps=2) for net in copies]
    engine = Engine(folders["sd"], lanes=16, device="cpu")
    images = list(engine.generate(rows))
    assert [image.error for image in images] == [None] * 6
    assert all(np.array_equal(image.pixels, images[0].pixels) for image in images)
    assert len([*engine.family.nets.t2i_adapters.nets]) == kept


def test_what_can_not_be_run_fails_its_own_row(folders, adapters, tmp_path):
    one, folder = adapters["sd"][0], folders["sd"]
    shallow = str(build_t2i_adapter(tmp_path / "other", "full_adapter", 1, channels=(32, 32, 64)))
    deep = str(build_t2i_adapter(tmp_path / "deep", "full_adapter", 1, channels=(32, 64, 64, 64)))
    five = str(build_t2i_adapter(tmp_path / "five", "full_adapter", 1, in_channels=5))
    net = str(build_controlnet(tmp_path / "net", folder, 1))
    lying = shutil.copytree(one, tmp_path / "lying")
    config = json.loads((lying / "config.json").read_text())
    (lying / "config.json").write_text(json.dumps(config | {"in_channels": 1}))
    pickled = shutil.copytree(one, tmp_path / "pickled")
    (pickled / "diffusion_pytorch_model.safetensors").rename(pickled / "diffusion_pytorch_model.bin")
    image = Picture(photo(64, 64, 1))
    wrong = {
        "t2i_adapter 'nowhere': no such folder": row(0, "nowhere"),
        "its features 2 are 32 channels at 1/16 of the size, the UNet takes 64 channels at 1/16": row(1, shallow),
        "its features 4 are 64 channels at 1/64 of the size, the UNet takes 64 channels at 1/32": row(2, deep),
        "its features 1 are 32 channels at 1/16 of the size, the UNet takes 32": row(3, adapters["sdxl"][0]),
        "takes pictures with 5 channels": row(4, five),
        "ControlNetModel is not supported; expected T2IAdapter": row(5, net),
        "adapter.conv_in.weight is [32, 192, 3, 3]; by config.json it takes 64 channels": row(6, str(lying)),
        "its weights are pickled": row(7, str(pickled)),
        "1 t2i_adapter and 0 adapter_images: one is needed for each": Request("a", seed=8, extra={"t2i_adapter": one}),
        "adapter_image without a t2i_adapter": Request("a", seed=9, extra={"adapter_image": image}),
    }
    good = row(20, one, steps=2)
    images = {image.request.seed: image for image in Engine(folder, lanes=4).generate([*wrong.values(), good])}
    for reason, request in wrong.items():
        assert reason in images[request.seed].error
    assert images[20].error is None
    (image,) = Engine(folder, lanes=4, deep_cache=2).generate([good])
    assert image.error == "a t2i_adapter does not work with deep-cache, which skips layers that it adds to"


@pytest.mark.parametrize(
    "options",
    [{"quantization": "int8"}, {"quantization": "fp8"}, pytest.param({"compile": "on"}, marks=pytest.mark.long)],
    ids=str,
)
def test_neighbours_change_no_byte_with(options, folders, adapters):
    rows = [row(0, steps=3), row(1, adapters["sd"][0], steps=3), row(2, steps=3)]
    engine = Engine(folders["sd"], lanes=4, device="cpu", **options)
    together, alone = made(engine, rows), [made(engine, [row]) for row in rows]
    assert all(np.array_equal(together[seed], pixels) for one in alone for seed, pixels in one.items())
