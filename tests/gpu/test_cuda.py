"""Tests that need a GPU: `make test-gpu`; deselected elsewhere."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
import torch

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))

from engine_models import model_folder
from gpu_bench import Bench
from gpu_check import bits_of_three_processes

from sdbatch.diffusion.device.headroom import MAX_LANES
from sdbatch.diffusion.engine import Engine
from sdbatch.diffusion.models.inspection import inspect_model
from sdbatch.diffusion.request import Request
from sdbatch.errors import UsageError
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
    # Two rounding errors of the same size; neither is always the smaller one.
    assert distance(ours, reference) <= 1.25 * distance(theirs, reference) + 0.1


@pytest.mark.parametrize("compile", ["on", "off"])
def test_a_row_of_fp8_depends_on_no_other_and_is_near_the_emulated_one(compile):
    options = {"lanes": 8, "quantization": "fp8"}
    if torch.cuda.get_device_capability() < (8, 9):
        with pytest.raises(UsageError, match=r"compute capability 8\.9"):
            Engine("tiny", device="cuda", compile=compile, **options)
        return
    rows = [Request("a red circle", seed=i, steps=20, sampler="ddim") for i in range(6)]
    engine = Engine("tiny", device="cuda", compile=compile, dtype="fp32", **options)
    together = by_seed(engine, rows)
    for row in rows[:2]:
        assert np.array_equal(by_seed(engine, [row])[row.seed], together[row.seed])
    whole = by_seed(Engine("tiny", lanes=8, device="cuda", compile=compile, dtype="fp32"), rows)
    emulated = by_seed(Engine("tiny", device="cpu", dtype="fp32", **options), rows)
    assert distance(together, emulated) <= distance(together, whole)


@pytest.mark.parametrize("compile", ["on", "blocks"])
@pytest.mark.parametrize("deep_cache", [1, 3])
def test_cuda_graphs_change_no_bit(deep_cache, compile, monkeypatch):
    options = {"lanes": 8, "device": "cuda", "compile": compile, "deep_cache": deep_cache}
    with_graphs = Engine("tiny", **options)
    assert with_graphs.describe()["cuda_graph_error"] is None
    monkeypatch.setattr("sdbatch.diffusion.device.calibration.cuda_graph_error", lambda *_: "not wanted here")
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
    engine = Engine("tiny", lanes=None, device="cuda")
    assert engine.lanes in range(2, MAX_LANES + 1, 2)
    assert engine.describe()["out_of_memory"] == []


def test_three_processes_make_the_same_bits(tmp_path):
    hashes = bits_of_three_processes(Bench("digest", tmp_path, smoke=False))
    assert hashes[0] and len(set(hashes)) == 1


@pytest.mark.parametrize("model, lanes", [("sd15", 8), ("sdxl", 4)])
def test_models_of_real_size_are_lane_invariant(model, lanes):
    engine = Engine(model_folder(model), lanes=lanes, device="cuda", compile="on")
    described = engine.describe()
    assert described["lane_invariant"] is True and described["cuda_graph_error"] is None
    assert described["numerics"]["float32"].startswith("TF32" if model == "sdxl" else "IEEE")
    assert described["attention"]
    rows = [Request("a cat", seed=i, steps=2, guidance_scale=5.0) for i in range(lanes)]
    together = by_seed(engine, rows)
    assert np.array_equal(by_seed(engine, rows[-1:])[lanes - 1], together[lanes - 1])
