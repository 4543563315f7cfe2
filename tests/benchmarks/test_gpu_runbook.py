"""`benchmarks/gpu.py --smoke`: every stage on a CPU, and the section that it writes."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest
import torch

from benchmarks.gpu_report import markdown
from tests.conftest import REPOSITORY

sys.path.insert(0, str(REPOSITORY / "benchmarks"))

from gpu_choices import KERNELS, as_product, pointwise_shapes

# The runbook in a process where ray cannot be imported.
GUARD = """
import runpy, sys
sys.modules["ray"] = None
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


@pytest.mark.long
def test_every_stage_runs_without_ray_and_keeps_what_it_found(tmp_path):
    runbook = REPOSITORY / "benchmarks" / "gpu.py"
    command = [sys.executable, "-c", GUARD, runbook, "--smoke", "--out", tmp_path]
    environment = os.environ | {"OMP_NUM_THREADS": "2"}
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
