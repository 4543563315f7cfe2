"""`Engine` from outside: accounting, laziness, and pictures that do not depend on their neighbours."""

from __future__ import annotations

import itertools
import random
import weakref

import numpy as np
import pytest

from sdbatch.diffusion.engine import SUBMISSIONS, Engine
from sdbatch.diffusion.lanes import WINDOW
from sdbatch.diffusion.request import Request
from sdbatch.errors import ModelError, UsageError

SETTINGS = (("ddpm", 6, 7.5), ("euler_a", 4, 1.0), ("pndm", 7, 3.0), ("heun", 3, 7.5), ("dpmpp_2m", 5, 1.0))


def mixed(count: int) -> list[Request]:
    return [
        Request(
            f"prompt number {i % 5}",
            "dull" if i % 3 else "",
            seed=i,
            sampler=s,
            steps=n,
            guidance_scale=g,
            guidance_stop=0.5 if i % 4 == 0 else 1.0,
        )
        for i, (s, n, g) in zip(range(count), itertools.cycle(SETTINGS), strict=False)
    ]


def by_seed(images) -> dict[int, bytes]:
    assert not [image.error for image in images if image.error]
    return {image.request.seed: image.pixels.tobytes() for image in images}


@pytest.fixture(scope="module")
def engine(sd):
    return Engine(sd, lanes=8)


@pytest.fixture(scope="module")
def pictures(engine):
    return by_seed(list(engine.generate(mixed(20))))


def test_order_and_neighbours_change_no_bit(engine, pictures):
    requests = mixed(20)
    random.Random(1).shuffle(requests)
    assert by_seed(list(engine.generate(requests))) == pictures
    others = [Request("something else entirely", seed=1000 + i, steps=3) for i in range(9)]
    among_others = by_seed(list(engine.generate(others + requests[:7])))
    assert all(among_others[request.seed] == pictures[request.seed] for request in requests[:7])


def test_a_row_alone_is_the_row_among_others(engine, pictures):
    for request in mixed(20)[::4]:
        assert by_seed(list(engine.generate([request])))[request.seed] == pictures[request.seed]


def test_another_engine_makes_the_same_pictures(sd, pictures):
    assert by_seed(list(Engine(sd, lanes=8).generate(mixed(20)))) == pictures


def test_every_request_comes_out_once_with_its_index(engine):
    requests = mixed(30)
    requests[3] = Request("")
    requests[17] = Request("a cat", steps=0)
    first = engine.submit(Request("to learn the next index", steps=1))
    while not engine.idle:
        engine.step()
    images = list(engine.generate(requests))
    assert sorted(image.index for image in images) == list(range(first + 1, first + 31))
    assert all(image.request is requests[image.index - first - 1] for image in images)
    failed = {image.index - first - 1: image.error for image in images if image.error}
    assert set(failed) == {3, 17}
    assert "empty" in failed[3] and "at least 1" in failed[17]
    assert all(image.pixels is None for image in images if image.error)


def test_requests_are_pulled_as_they_are_needed(engine):
    pulled = 0

    def endless():
        nonlocal pulled
        for i in itertools.count():
            pulled += 1
            yield Request("a cat", seed=i, steps=2, guidance_scale=1)

    images = list(itertools.islice(engine.generate(endless()), 40))
    assert len(images) == 40 and pulled < 600
    # The rows left behind must not come out of the next call.
    assert engine.idle
    assert [image.request.seed for image in engine.generate([Request("b", seed=0, steps=1)])] == [0]


def test_the_first_pass_does_not_wait_for_a_window_of_rows(sd):
    engine, pulled = Engine(sd, lanes=2), []
    requests = (pulled.append(seed) or Request("a cat", seed=seed, steps=40, sampler="ddim") for seed in range(500))
    images = engine.generate(requests)
    seen = []
    denoise = engine.family.denoise

    def counted(*args, **named):
        seen.append(len(pulled))
        return denoise(*args, **named)

    engine.family.denoise = counted
    next(images)
    assert seen[:8] == [SUBMISSIONS * 2 * n for n in range(1, 9)]
    assert set(seen[7:40]) == {WINDOW * 2}  # enough for every size to fill its lanes
    images.close()


@pytest.mark.parametrize("deep_cache", [1, 2])
def test_a_closed_engine_holds_no_model(sd, deep_cache):
    engine = Engine(sd, lanes=2, deep_cache=deep_cache)
    by_seed(engine.generate([Request("a cat", steps=2)]))
    networks = [weakref.ref(network) for network in (engine.family.denoiser, engine.family.vae)]
    engine.close()
    assert [network() for network in networks] == [None, None]


def test_nothing_in_nothing_out(engine):
    assert list(engine.generate([])) == []
    assert engine.idle and engine.step() == []


def test_pixels_are_rgb_bytes(engine):
    image = next(engine.generate([Request("a cat", steps=1, height=64, width=128)]))
    assert image.pixels.shape == (64, 128, 3) and image.pixels.dtype == np.uint8


def test_tokens_are_counted_before_truncation(engine):
    short, long = engine.generate([Request("red", steps=1), Request("red " * 50, steps=1)])
    assert (short.prompt_tokens, short.prompt_truncated) == (3, False)
    assert (long.prompt_tokens, long.prompt_truncated) == (52, True)


def test_settings_that_make_no_sense_are_refused(sd, tmp_path):
    for wrong in ({"lanes": 7}, {"lanes": 0}, {"dtype": "fp8"}, {"device": "tpu"}):
        with pytest.raises(UsageError):
            Engine(sd, **wrong)
    (tmp_path / "civitai.safetensors").write_bytes(b"weights")
    with pytest.raises(ModelError, match=r"civitai\.safetensors: not a complete safetensors file"):
        Engine(tmp_path / "civitai.safetensors")
    with pytest.raises(ModelError, match="no such folder"):
        Engine(tmp_path / "nowhere")
