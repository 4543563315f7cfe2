"""deep-cache of transformers: the pictures of diffusers' First-Block-Cache at fixed calls, in any company."""

from __future__ import annotations

import dataclasses
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import flow_checkpoints
import numpy as np
import pytest
from diffusers.hooks import FirstBlockCacheConfig, first_block_cache
from flow_references import Reference, distance, engine, rows
from lora_checkpoints import build_transformer_loras

from sdbatch.diffusion.adapters.lora_rows import Lora, Loras
from sdbatch.diffusion.models.inspection import check_deep_cache, inspect_model
from sdbatch.diffusion.request import Request
from sdbatch.errors import ModelError


class Family(NamedTuple):
    build: Callable[[Path], Path]
    guidance_scales: tuple[float, ...] = (3.0, 1.0)
    sampler: str = "flow_euler"
    loras: bool = False
    negative: bool = True


FAMILIES = {
    "sd3": Family(flow_checkpoints.build_sd3),
    "flux": Family(flow_checkpoints.build_flux, loras=True),
    "chroma": Family(flow_checkpoints.build_chroma, loras=True),
    "flux2-dev": Family(flow_checkpoints.build_flux2_dev, loras=True, negative=False),
    "flux2-klein": Family(
        lambda folder: flow_checkpoints.build_klein(folder, distilled=False), loras=True, negative=False
    ),
    "z-image": Family(flow_checkpoints.build_z_image, (3.0, 0.0), loras=True),
    "lumina2": Family(flow_checkpoints.build_lumina_2),
    "qwen-image": Family(flow_checkpoints.build_qwen_image, loras=True),
    "pixart-sigma": Family(flow_checkpoints.build_pixart, sampler="dpmpp_2m"),
    "sana": Family(flow_checkpoints.build_sana),
    "sana-sprint": Family(
        lambda folder: flow_checkpoints.build_sana(folder, sprint=True), sampler="scm", negative=False
    ),
}


@pytest.fixture(scope="module")
def models(tmp_path_factory) -> Callable[[str], Path]:
    folder, built = tmp_path_factory.mktemp("models"), {}

    def build(name: str) -> Path:
        if name not in built:
            built[name] = FAMILIES[name].build(folder / name)
        return built[name]

    return build


def pictures(made, requests) -> dict[int, np.ndarray]:
    images = list(made.generate(requests))
    assert [image.error for image in images] == [None] * len(requests)
    return {image.request.seed: image.pixels for image in images}


# Every family takes the same way through the lanes; these differ in how blocks return their tokens.
EVERYDAY = ("flux", "z-image", "sana")


@pytest.mark.parametrize(
    "name", [name if name in EVERYDAY else pytest.param(name, marks=pytest.mark.long) for name in FAMILIES]
)
def test_company_and_order_change_no_byte(name, models, tmp_path):
    family, folder = FAMILIES[name], models(name)
    requests = rows((family.sampler,), family.guidance_scales, (2, 3, 5), family.negative, [(64, 64)] * 3, times=6)
    if family.loras:
        path = str(build_transformer_loras(tmp_path, folder, kohya=False)["everything"])
        for i in (1, 4):
            requests[i] = dataclasses.replace(requests[i], extra={"lora": Loras(path, (Lora(path, 0.8),))})
    made = engine(folder, lanes=4, deep_cache=2)
    together = pictures(made, requests)
    assert made.describe()["lane_invariant"] is not False  # None if the machine is too slow for the check
    random.Random(1).shuffle(requests)
    shuffled = pictures(made, requests[:4])
    assert all(np.array_equal(shuffled[seed], together[seed]) for seed in shuffled)
    alone = next(request for request in requests if request.seed == 101)
    assert np.array_equal(pictures(made, [alone])[101], together[101])
    # A row's first call runs all blocks, the second one adds: only longer rows differ from those of no cache.
    exact = pictures(engine(folder, lanes=4), requests)
    assert any(not np.array_equal(exact[seed], together[seed]) for seed in exact)


def test_rows_of_one_call_are_those_without_a_cache(models):
    requests = rows(("flow_euler",), (3.0, 1.0), steps=(1,), times=4)
    exact, cached = (pictures(engine(models("sd3"), deep_cache=n), requests) for n in (1, 3))
    assert all(np.array_equal(exact[seed], cached[seed]) for seed in exact)


class FirstBlockCached(Reference):
    """diffusers' pipeline with its First-Block-Cache, which computes on every N-th call."""

    def __init__(self, folder, arguments, interval: int, monkeypatch):
        super().__init__(folder, arguments)
        calls: dict[int, int] = {}

        def should_compute(hook, residual) -> bool:
            state = hook.state_manager.get_state()  # conditional and unconditional calls have their own
            calls[id(state)] = calls.get(id(state), -1) + 1
            return calls[id(state)] % interval == 0

        monkeypatch.setattr(first_block_cache.FBCHeadBlockHook, "_should_compute_remaining_blocks", should_compute)
        self._calls = calls

    def pixels(self, request: Request) -> np.ndarray:
        self._calls.clear()
        self.pipeline.transformer.enable_cache(FirstBlockCacheConfig())
        try:
            return super().pixels(request)
        finally:
            self.pipeline.transformer.disable_cache()


def of_flux(request: Request) -> dict:
    return {"guidance_scale": request.guidance_scale, "negative_prompt": request.negative_prompt or None} | dict(
        request.extra
    )


def of_qwen_image(request: Request) -> dict:
    return {"true_cfg_scale": request.guidance_scale, "negative_prompt": request.negative_prompt or None}


@pytest.mark.parametrize(("name", "arguments", "interval"), [("flux", of_flux, 2), ("qwen-image", of_qwen_image, 3)])
def test_pictures_are_those_of_diffusers_cache_at_fixed_calls(name, arguments, interval, models, monkeypatch):
    requests = rows(("flow_euler",), (3.0, 1.0), steps=(2, 5, 7), times=4)
    if name == "flux":
        requests[0] = dataclasses.replace(requests[0], extra={"true_cfg_scale": 2.0})
    made = pictures(engine(models(name), deep_cache=interval), requests)
    exact = pictures(engine(models(name)), requests)
    reference = FirstBlockCached(models(name), arguments, interval, monkeypatch)
    for request in requests:
        assert distance(made[request.seed], reference.pixels(request)) <= 2
    assert any(distance(made[seed], exact[seed]) > 2 for seed in exact)


class IdleBlocks(Reference):
    """Chroma's pipeline: blocks after the first return their inputs on skipped calls, and the last adds to them.

    diffusers' First-Block-Cache does not know Chroma's blocks. Here their lists stay whole, since the transformer
    computes from their lengths which modulations belong to a block.
    """

    def __init__(self, folder, interval: int):
        super().__init__(
            folder,
            lambda request: {
                "guidance_scale": request.guidance_scale,
                "negative_prompt": request.negative_prompt or None,
            },
        )
        transformer = self.pipeline.transformer
        first, *double = transformer.transformer_blocks
        first.register_forward_hook(self._keep_first)
        for block in double:
            block.register_forward_hook(self._idle_double, with_kwargs=True)
        for block in transformer.single_transformer_blocks:
            block.register_forward_hook(self._idle_single, with_kwargs=True)
        self._last = block
        self._interval = interval

    def pixels(self, request: Request) -> np.ndarray:
        self._call, self._lanes, self._added = -1, 2 if request.guidance_scale > 1 else 1, {}
        return super().pixels(request)

    def _keep_first(self, block, inputs, output) -> None:
        self._call += 1
        self._first = output[1]

    def _is_idle(self) -> bool:
        return self._call // self._lanes % self._interval > 0

    def _idle_double(self, block, inputs, named, output):
        return (named["encoder_hidden_states"], named["hidden_states"]) if self._is_idle() else output

    def _idle_single(self, block, inputs, named, output):
        lane, count = self._call % self._lanes, self._first.shape[1]
        if self._is_idle():
            output = named["hidden_states"].clone()
            if block is self._last:
                output[:, -count:] += self._added[lane]
        elif block is self._last:
            self._added[lane] = output[:, -count:] - self._first
        return output


def test_chromas_pictures_are_those_of_blocks_that_idle_at_fixed_calls(models):
    requests = rows(("flow_euler",), (3.0, 1.0), steps=(2, 5, 7), times=4)
    made = pictures(engine(models("chroma"), deep_cache=2), requests)
    reference = IdleBlocks(models("chroma"), 2)
    assert all(distance(made[request.seed], reference.pixels(request)) <= 2 for request in requests)


@pytest.mark.long
@pytest.mark.skipif(not shutil.which("g++"), reason="torch.compile needs a C++ compiler")
@pytest.mark.parametrize("name", ["flux", "chroma"])
def test_it_can_be_compiled(name, models):
    requests = rows(("flow_euler",), (3.0,), steps=(4,), sizes=[(64, 64)] * 3, times=2)
    compiled = engine(models(name), lanes=4, deep_cache=2, compile="on")
    assert compiled.describe()["compile"] == "on"
    ours, eager = (pictures(made, requests) for made in (compiled, engine(models(name), lanes=4, deep_cache=2)))
    assert max(distance(ours[seed], eager[seed]) for seed in eager) <= 2


def test_one_block_has_nothing_to_skip(models, tmp_path):
    info = inspect_model(models("sana"))
    check_deep_cache(info)
    config = (info.folder / "transformer" / "config.json").read_text()
    found = tmp_path / "model" / "transformer"
    found.mkdir(parents=True)
    (found / "config.json").write_text(config.replace('"num_layers": 2', '"num_layers": 1'))
    with pytest.raises(ModelError, match="at least 2 blocks"):
        check_deep_cache(dataclasses.replace(info, folder=tmp_path / "model"))
