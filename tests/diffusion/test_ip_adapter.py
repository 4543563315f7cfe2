"""IP-Adapters per row: the pictures of diffusers' pipelines, in the same passes as rows without."""

from __future__ import annotations

import random
import shutil
import subprocess
import sys
import threading

import diffusers
import numpy as np
import pytest
import torch
from control_checkpoints import build_controlnet, edges
from diffusers.utils import logging
from ip_adapter_checkpoints import build_ip_adapters
from lora_checkpoints import build_loras
from picture_rows import Picture, photo
from safetensors.torch import load_file, save_file
from transformers import CLIPImageProcessor, CLIPVisionModelWithProjection

from sdbatch.diffusion import preparation
from sdbatch.diffusion.adapters import net_loading
from sdbatch.diffusion.adapters.ip_adapter_loading import load_ip_adapter
from sdbatch.diffusion.adapters.ip_adapter_rows import image_prompts_of
from sdbatch.diffusion.engine import Engine
from sdbatch.diffusion.request import Request
from sdbatch.diffusion.samplers.schedulers import build_scheduler
from tests.conftest import REPOSITORY


@pytest.fixture(scope="module")
def adapters(sd, tmp_path_factory):
    return build_ip_adapters(tmp_path_factory.mktemp("adapters") / "models", sd)


def row(i: int, *adapters, scale=1.0, **options) -> Request:
    names = tuple(map(str, adapters))
    extra = {"ip_adapter_image": tuple(Picture(photo(50, 40, 10 * i + j)) for j in range(len(names)))} if names else {}
    extra |= {"ip_adapter": names, "ip_adapter_scale": scale} if names else {}
    own = {"sampler": ("ddim", "euler_a", "dpmpp_2m")[i % 3], "steps": 6 + i % 3, "guidance_scale": (5.0, 1.0)[i % 2]}
    return Request("a red cat", ("", "ugly")[i // 2 % 2], i, extra=extra | options.pop("extra", {}), **own | options)


def made(engine: Engine, rows: list[Request]) -> dict[int, np.ndarray]:
    """Pixels by seed."""
    images = list(engine.generate(rows))
    assert [image.error for image in images if image.error] == []
    return {image.request.seed: image.pixels for image in images}


class Pipelines:
    """The model's pipeline with the row's own adapters loaded."""

    def __init__(self, folder, encoder):
        self._is_xl = (folder / "text_encoder_2").is_dir()
        logging.set_verbosity_error()
        logging.disable_progress_bar()
        self._folder, self._encoder = folder, encoder

    def pixels(self, request: Request) -> np.ndarray:
        cls = diffusers.StableDiffusionXLPipeline if self._is_xl else diffusers.StableDiffusionPipeline
        pipeline = cls.from_pretrained(
            self._folder,
            **({"add_watermarker": False} if self._is_xl else {"safety_checker": None}),
            image_encoder=CLIPVisionModelWithProjection.from_pretrained(self._encoder),
            feature_extractor=CLIPImageProcessor(size=32, crop_size=32),
        )
        pipeline.set_progress_bar_config(disable=True)
        prompts = image_prompts_of(request)
        files = [load_file(prompt.adapter) for prompt in prompts]
        states = [
            {
                part: {key.removeprefix(f"{part}."): t for key, t in file.items() if key.startswith(part)}
                for part in ("image_proj", "ip_adapter")
            }
            for file in files
        ]
        pipeline.unet._load_ip_adapter_weights(states, low_cpu_mem_usage=False)
        pipeline.set_ip_adapter_scale([prompt.scale for prompt in prompts])
        offset = None if self._is_xl else {"steps_offset": 1}
        pipeline.scheduler = build_scheduler(request.sampler, dict(pipeline.scheduler.config), offset)
        image = pipeline(
            request.prompt,
            negative_prompt=request.negative_prompt or None,
            ip_adapter_image=[prompt.image.load() for prompt in prompts],
            num_inference_steps=request.steps,
            guidance_scale=request.guidance_scale,
            generator=torch.Generator().manual_seed(request.seed),
            output_type="pil",
        ).images[0]
        return np.asarray(image)


def test_rows_are_the_pictures_of_their_own_pipelines_in_any_company(sd, adapters):
    plain, plus = adapters["plain"], adapters["plus"]
    rows = [
        *(row(0), row(1, plain), row(2, plus), row(3), row(4, plain, scale=0.4), row(5, plus), row(8)),
        *(row(6, plain, plus, scale=(0.5, 0.8)), row(7, plus, scale=-0.3)),
    ]
    pixels = made(Engine(sd, lanes=8, device="cpu"), rows)
    again = made(Engine(sd, lanes=8, device="cpu"), random.Random(2).sample(rows, len(rows)))
    assert all(np.array_equal(pixels[seed], again[seed]) for seed in pixels)
    without = [row for row in rows if not row.extra]
    alone = made(Engine(sd, lanes=8, device="cpu"), without)
    assert all(np.array_equal(pixels[seed], alone[seed]) for seed in alone)
    pipelines = Pipelines(sd, plain.parent / "image_encoder")
    shown = [row for row in rows if row.extra]
    off = {row.seed: int(np.abs(pixels[row.seed].astype(int) - pipelines.pixels(row)).max()) for row in shown}
    assert max(off.values()) <= 2, off


def test_nothing_is_said_of_packages_that_are_not_needed(sd, adapters, tmp_path):
    """In a fresh process: the library warns once."""
    photo(64, 64, 1).save(tmp_path / "photo.png")
    script = f"""
from sdbatch.diffusion.engine import Engine
from sdbatch.diffusion.pictures.picture import Picture
from sdbatch.diffusion.request import Request
extra = {{"ip_adapter": {str(adapters["plain"])!r}, "ip_adapter_image": Picture({str(tmp_path / "photo.png")!r})}}
(image,) = Engine({str(sd)!r}, lanes=2, device="cpu").generate([Request("x", seed=0, steps=1, extra=extra)])
assert image.error is None, image.error
"""
    run = subprocess.run([sys.executable, "-c", script], cwd=REPOSITORY, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    assert not run.stdout + run.stderr


@pytest.mark.long
def test_sdxl_is_no_other(sdxl, tmp_path):
    adapters = build_ip_adapters(tmp_path / "models", sdxl)
    rows = [row(0, adapters["plain"]), row(1, adapters["plus"]), row(2), row(4, adapters["plus"], scale=0.5)]
    pixels = made(Engine(sdxl, lanes=6, device="cpu"), rows)
    pipelines = Pipelines(sdxl, tmp_path / "models" / "image_encoder")
    shown = [row for row in rows if row.extra]
    off = {row.seed: int(np.abs(pixels[row.seed].astype(int) - pipelines.pixels(row)).max()) for row in shown}
    assert max(off.values()) <= 2, off


def test_adapters_are_loaded_by_the_engine_s_own_thread(sd, adapters, monkeypatch):
    """Pictures are prepared in threads, also for rows whose adapter has left the memory meanwhile."""
    threads = []

    def load(found, unet):
        threads.append(threading.current_thread())
        return load_ip_adapter(found, unet)

    monkeypatch.setattr(net_loading, "load_ip_adapter", load)
    monkeypatch.setattr(preparation, "spare_bytes", lambda device: 0)
    names = [adapters["plain"].with_name(f"copy{i}.safetensors") for i in range(6)]
    for name in names:
        shutil.copy(adapters["plain"], name)
    engine = Engine(sd, lanes=2, device="cpu")
    for first in (0, 1):  # the second time, each of the six has been seen before
        rows = [row(10 * first + i, name, steps=2, guidance_scale=1.0) for i, name in enumerate(names)]
        made(engine, rows)
    assert len(threads) > 6
    assert set(threads) == {threading.current_thread()}


def test_it_goes_with_a_controlnet_a_lora_and_deep_cache(sd, adapters, tmp_path):
    net = build_controlnet(tmp_path / "net", sd, 1)
    control = {"controlnet": str(net), "control_image": Picture(edges(64, 64, 1))}
    both = row(0, adapters["plain"], extra=control)
    lora = {"lora": str(build_loras(tmp_path / "loras", sd)["attention"])}
    rows = [both, row(1, adapters["plain"]), row(2), row(4, extra=control)]
    rows += [row(5, adapters["plain"], extra=control | lora), row(7, extra=control | lora)]
    engine = Engine(sd, lanes=6, device="cpu")
    together, alone = made(engine, rows), {}
    for one in rows:
        alone |= made(engine, [one])
    assert all(np.array_equal(together[seed], alone[seed]) for seed in alone)
    without = made(engine, [row(0, extra=control), row(5, extra=control | lora)])
    assert all(np.abs(without[seed].astype(int) - together[seed]).mean() > 2 for seed in without)
    cached = Engine(sd, lanes=6, device="cpu", deep_cache=2)
    assert np.array_equal(made(cached, rows[1:3])[2], made(cached, [rows[2]])[2])


def test_what_can_not_be_run_fails_its_own_row(sd, sdxl, adapters, tmp_path):
    tensors = load_file(adapters["plain"])
    folder = adapters["plain"].parent
    other = {key: tensor for key, tensor in tensors.items() if not key.startswith("image_proj")}
    other["image_proj.proj.0.weight"] = torch.ones(1)
    save_file(other, folder / "face.safetensors")
    save_file(tensors, tmp_path / "lonely.safetensors")
    save_file({key: t for key, t in tensors.items() if ".1." not in key}, folder / "short.safetensors")
    wrong = {
        "no such file": row(0, tmp_path / "none"),
        "a FaceID or full-face adapter": row(1, folder / "face.safetensors"),
        "no image_encoder folder beside it": row(2, tmp_path / "lonely.safetensors"),
        "ip_adapter.1.to_k_ip.weight is not there": row(3, folder / "short.safetensors"),
        "one is needed for each": Request("a", seed=4, extra={"ip_adapter": str(adapters["plain"])}),
    }
    images = {image.request.seed: image for image in Engine(sd, lanes=4, device="cpu").generate(wrong.values())}
    for reason, request in wrong.items():
        assert reason in images[request.seed].error
    (image,) = Engine(sdxl, lanes=4, device="cpu").generate([row(0, adapters["plain"])])
    assert "made for a different model" in image.error
