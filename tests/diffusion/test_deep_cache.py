"""DeepCache in lanes: the pictures of its authors' own package, and still none that depends on its neighbours."""

from __future__ import annotations

import itertools
import random
import shutil
from dataclasses import replace

import checkpoints
import numpy as np
import pytest
from DeepCache import DeepCacheSDHelper
from diffusers import StableDiffusionXLPipeline
from references import Reference

from sdbatch.diffusion.engine import Engine
from sdbatch.diffusion.models.inspection import inspect_model
from sdbatch.diffusion.request import Request
from sdbatch.errors import ModelError, UsageError

# The package finds a call's number by its timestep, so only samplers that call the model once a timestep.
SETTINGS = (("ddpm", 7, 7.5), ("ddim", 10, 1.0), ("euler", 6, 3.0), ("dpmpp_2m", 9, 7.5), ("euler_a", 4, 7.5))


def rows(count: int, **settings) -> list[Request]:
    return [
        Request(f"prompt number {i % 4}", seed=i, sampler=sampler, steps=steps, guidance_scale=scale, **settings)
        for i, (sampler, steps, scale) in zip(range(count), itertools.cycle(SETTINGS), strict=False)
    ]


def by_seed(images) -> dict[int, np.ndarray]:
    images = list(images)
    assert not [image.error for image in images if image.error]
    return {image.request.seed: image.pixels for image in images}


class DeepCached(Reference):
    """diffusers' pipeline with the package `DeepCache` in it."""

    def __init__(self, folder, interval: int, **options):
        super().__init__(folder, **options)
        self._interval = interval

    def pixels(self, request: Request) -> np.ndarray:
        helper = DeepCacheSDHelper(pipe=self.pipeline)
        helper.set_params(cache_interval=self._interval, cache_branch_id=0)
        helper.enable()
        try:
            return super().pixels(request)
        finally:
            helper.disable()


@pytest.mark.parametrize("interval", [2, 3])
@pytest.mark.parametrize("checkpoint", ["sd", "sd_v", "sdxl", "tiny"])
def test_pictures_are_those_of_the_package(checkpoint, interval, request):
    folder = inspect_model("tiny").folder if checkpoint == "tiny" else request.getfixturevalue(checkpoint)
    options = {"cls": StableDiffusionXLPipeline} if checkpoint == "sdxl" else {}
    images = list(Engine(folder, lanes=8, deep_cache=interval).generate(rows(10)))
    assert len(images) == 10
    off = {k: v for k, v in DeepCached(folder, interval, **options).deviations(images).items() if v > 2}
    assert not off, f"pixels off by more than 2 of 255: {off}"


def test_neighbours_and_order_change_no_bit(sd):
    engine = Engine(sd, lanes=8, deep_cache=3)
    requests = [replace(row, seed=i) for i, row in enumerate(rows(20) + rows(5, guidance_stop=0.5))]
    together = by_seed(engine.generate(requests))
    assert len(together) == 25
    random.Random(1).shuffle(requests)
    shuffled = by_seed(engine.generate(requests))
    assert all(np.array_equal(shuffled[seed], together[seed]) for seed in together)
    for request in requests[::6]:
        assert np.array_equal(by_seed(engine.generate([request]))[request.seed], together[request.seed])


def test_it_changes_the_picture_and_says_so(sd):
    plain, cached = Engine(sd, lanes=8), Engine(sd, lanes=8, deep_cache=2)
    request = rows(1)
    assert not np.array_equal(by_seed(plain.generate(request))[0], by_seed(cached.generate(request))[0])
    assert plain.describe()["deep_cache"] == 1 and cached.describe()["deep_cache"] == 2
    assert cached.describe()["lane_invariant"] is True


@pytest.mark.long
@pytest.mark.skipif(not shutil.which("g++"), reason="torch.compile needs a C++ compiler")
def test_it_can_be_compiled(sd):
    compiled = Engine(sd, lanes=4, deep_cache=2, compile="on")
    assert compiled.describe()["compile"] == "on"
    ours, eager = (by_seed(e.generate(rows(5))) for e in (compiled, Engine(sd, lanes=4, deep_cache=2)))
    assert max(np.abs(ours[seed].astype(int) - eager[seed]).max() for seed in eager) <= 2


def test_what_it_can_not_do_is_refused(sd, tmp_path):
    with pytest.raises(UsageError, match="deep_cache"):
        Engine(sd, deep_cache=0)
    foreign = checkpoints.build_sd(tmp_path / "foreign", up_block_types=("CrossAttnUpBlock2D", "AttnUpBlock2D"))
    with pytest.raises(ModelError, match="AttnUpBlock2D"):
        Engine(foreign, deep_cache=2)
