"""`benchmarks/gpu.py --smoke`: every stage on a CPU, and the section that it writes."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest
import torch

from benchmarks.gpu_report import markdown
from sdbatch.diffusion.accelerate.compilation import CompiledShapes
from sdbatch.diffusion.engine import Engine
from sdbatch.diffusion.request import Request
from tests.conftest import REPOSITORY

sys.path.insert(0, str(REPOSITORY / "benchmarks"))

from engine_measure import denoiser_flops, run_engine
from engine_models import model_folder
from gpu_bench import Bench
from gpu_check import GPU_TESTS
from gpu_choices import KERNELS, as_product, decodes, pointwise_shapes


@pytest.fixture
def bare(tmp_path) -> dict[str, str]:
    """An environment in whose processes ray cannot be imported."""
    (tmp_path / "absent").mkdir()
    (tmp_path / "absent" / "ray.py").write_text("raise ImportError('ray is absent')")
    return os.environ | {"PYTHONPATH": f"{tmp_path / 'absent'}{os.pathsep}{REPOSITORY}"}


@pytest.mark.long
def test_every_stage_runs_without_ray_and_keeps_what_it_found(tmp_path, bare):
    runbook = REPOSITORY / "benchmarks" / "gpu.py"
    command = [sys.executable, runbook, "--smoke", "--out", tmp_path]
    environment = bare | {"OMP_NUM_THREADS": "2"}
    done = subprocess.run(command, capture_output=True, text=True, timeout=1800, env=environment)
    assert done.returncode == 0, done.stdout + done.stderr
    stages = {path.stem: json.loads(path.read_text()) for path in tmp_path.glob("*.json")}
    compared = ["blocks-klein", "blocks-sd15", "fp8-klein", "fp8-sd15", "fp8-sdxl"]
    choices = ["attention", "convolutions", "lanes", "start", "vae"]
    assert set(stages) == {"check", "klein", "lora", "mixed", "sd15", "sdxl", *compared, *choices}
    shapes = {finding["name"] for finding in stages["attention"]["findings"]}
    assert len(shapes) == 8 * (1 + len(KERNELS))
    assert {"passes that found the device dry"} <= {finding["name"] for finding in stages["sd15"]["findings"]}
    for name in ("fp8-klein", "fp8-sd15", "fp8-sdxl"):
        found = {finding["name"]: finding["value"] for finding in stages[name]["findings"]}
        assert found["none, same bytes alone"] and found["fp8, same bytes alone"]
        assert found["mean difference of the pictures, of 255 (random weights)"] > 0
    check = {finding["name"]: finding["value"] for finding in stages["check"]["findings"]}
    same = {name: value for name, value in check.items() if "same bits" in name and "×" not in name}
    assert same.pop("every network and size, same bits in any place") is not False  # None: the machine is too slow
    assert list(same.values()) == [True] * 6
    for part in ("lanes", "decode", "graphs"):
        assert check[f"out of memory at {part}"] == "no error; afterwards the same bits"  # a CPU has no limit to set
    assert done.stdout.rstrip().endswith(markdown(tmp_path)) and "Never run on a GPU" in markdown(tmp_path)


def test_the_tests_on_a_gpu_are_found_without_ray(bare):
    command = [*GPU_TESTS, "--collect-only"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, env=bare, cwd=REPOSITORY)
    assert done.returncode == 0 and "test_cuda_graphs_change_no_bit" in done.stdout, done.stdout + done.stderr


def test_a_stage_whose_time_is_over_ends(tmp_path, monkeypatch):
    bench, tiny = Bench("vae", tmp_path, smoke=True), model_folder("tiny")
    exact = decodes(bench, "float32", tiny, "fp32")
    monkeypatch.setattr(Bench, "left", 0.0)
    assert decodes(bench, "again", tiny, "fp32", exact) is exact
    found = {finding["name"]: finding["value"] for finding in bench.found._content["findings"]}
    assert found["again"] == "left out: the stage's time is over"


def test_operations_are_counted_and_compiled_code_is_used_after_that():
    calls = []

    def backend(graph, _):
        return lambda *inputs: calls.append(1) or graph(*inputs)

    engine = Engine("tiny", lanes=2, device="cpu", compile="off")
    network = torch.compile(engine.family.denoiser.forward, dynamic=False, backend=backend)
    engine.family._compiled = CompiledShapes(network, [engine.family.latent_shape(64, 64)])
    rows = [Request("a red circle", seed=0, steps=2, guidance_scale=1.0)]
    run_engine(engine, rows)
    once = len(calls)
    assert once and denoiser_flops(engine) > 0 and len(calls) == once
    run_engine(engine, rows)
    assert len(calls) == 2 * once


@pytest.mark.parametrize("smoke", [False, True])
def test_the_section_names_the_card_or_says_that_there_was_none(tmp_path, smoke):
    assert "no machine with one was there" in markdown(tmp_path)
    findings = [
        {"name": "engine", "value": {"device_name": "NVIDIA H100"}, "detail": None},
        {"name": "images per second", "value": 3.456, "detail": None},
    ]
    content = {"stage": "sd15", "smoke": smoke, "findings": findings}
    (tmp_path / "sd15.json").write_text(json.dumps(content))
    section = markdown(tmp_path)
    assert section.startswith("## Never run on a GPU" if smoke else "## On a GPU: NVIDIA H100")
    assert "| images per second | 3.46 |" in section


def test_a_product_is_the_convolution_and_knows_no_neighbours():
    layer = torch.nn.Conv2d(24, 40, 1).requires_grad_(False)
    x = torch.randn(6, 24, 9, 7).to(memory_format=torch.channels_last)
    made = as_product(layer, x)
    assert torch.allclose(made, layer(x), atol=1e-5) and made.is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(as_product(layer, x.flip(0)).flip(0), made)


def test_the_measured_shapes_are_those_of_a_pass():
    # Every block with attention has a 1×1 convolution before and behind; those of Stable Diffusion XL are linear.
    first, xl = pointwise_shapes("sd15"), pointwise_shapes("sdxl")
    assert first[320, 320, 64] == 2 * 5 and first[1280, 1280, 8] == 2
    assert sum(xl.values()) < sum(first.values())
