"""What only a GPU can show. `make test-gpu`, on a machine that has one; deselected anywhere else."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from sdbatch.diffusion.engine import Engine
from sdbatch.diffusion.models import inspect_model
from sdbatch.diffusion.request import Request
from tests.diffusion.references import Reference

pytestmark = pytest.mark.gpu

ROWS = [
    Request("a red circle", seed=i, steps=steps, sampler=sampler, guidance_scale=scale, height=size, width=size)
    for i, (steps, sampler, scale, size) in enumerate(
        [(6, "ddpm", 7.5, 64), (9, "euler_a", 1.0, 64), (4, "dpmpp_2m", 5.0, 128), (7, "pndm", 3.0, 64)] * 6
    )
]


def by_seed(engine: Engine, rows=ROWS) -> dict[int, np.ndarray]:
    images = list(engine.generate(rows))
    assert not [image.error for image in images if image.error]
    return {image.request.seed: image.pixels for image in images}


def diffusers_pictures(rows: list[Request], dtype: torch.dtype) -> dict[int, np.ndarray]:
    reference = Reference(inspect_model("tiny").folder, dtype=dtype)
    reference.pipeline.to("cuda")
    return {row.seed: reference.pixels(row) for row in rows}


def distance(ours: dict[int, np.ndarray], theirs: dict[int, np.ndarray]) -> float:
    """Of the median picture: one in a dozen is chaotic, and in half precision becomes another one altogether."""
    return float(np.median([np.abs(ours[seed].astype(int) - theirs[seed]).mean() for seed in theirs]))


def test_float32_makes_diffusers_pictures():
    reference = diffusers_pictures(ROWS, torch.float32)
    ours = by_seed(Engine("tiny", lanes=8, dtype="fp32", device="cuda", compile="off"))
    assert max(np.abs(ours[seed].astype(int) - reference[seed]).max() for seed in reference) <= 2


@pytest.mark.parametrize("compile", ["on", "off"])
def test_half_precision_is_no_farther_off_than_diffusers_own(compile):
    # Captions that the model knows, in enough steps: of others far more are chaotic.
    captions = ("a red circle", "a blue square", "a green triangle on a yellow background", "a large purple star")
    rows = [Request(caption, seed=i, steps=20, sampler="ddim") for i, caption in enumerate(captions * 6)]
    ours = by_seed(Engine("tiny", lanes=8, dtype="fp16", device="cuda", compile=compile), rows)
    reference, theirs = (diffusers_pictures(rows, dtype) for dtype in (torch.float32, torch.float16))
    assert distance(ours, reference) <= distance(theirs, reference)


@pytest.mark.parametrize("deep_cache", [1, 3])
def test_cuda_graphs_change_no_bit(deep_cache, monkeypatch):
    options = {"lanes": 8, "device": "cuda", "compile": "on", "deep_cache": deep_cache}
    with_graphs = Engine("tiny", **options)
    assert with_graphs.describe()["cuda_graph_error"] is None
    monkeypatch.setattr("sdbatch.diffusion.calibration.cuda_graph_error", lambda *_: "not wanted here")
    without = by_seed(Engine("tiny", **options))
    assert {seed: p.tobytes() for seed, p in by_seed(with_graphs).items()} == {
        seed: p.tobytes() for seed, p in without.items()
    }


def test_neighbours_change_no_bit():
    engine = Engine("tiny", lanes=8, device="cuda")
    together = by_seed(engine)
    assert engine.describe()["lane_invariant"] is True
    for row in ROWS[::5]:
        assert np.array_equal(by_seed(engine, [row])[row.seed], together[row.seed])


def test_lanes_are_measured():
    assert Engine("tiny", lanes=None, device="cuda").lanes == 64
