"""`benchmarks/gpu.py --smoke`: every stage on a CPU, and the section that it writes."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

from benchmarks.gpu_report import markdown
from tests.conftest import REPOSITORY

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
    assert set(stages) == {"check", "klein", "lora", "mixed", "sd15", "sdxl", *compared}
    for name in ("fp8-klein", "fp8-sd15", "fp8-sdxl"):
        found = {finding["name"]: finding["value"] for finding in stages[name]["findings"]}
        assert found["none, same bytes alone"] and found["fp8, same bytes alone"]
        assert found["mean difference of the pictures, of 255 (random weights)"] > 0
    check = {finding["name"]: finding["value"] for finding in stages["check"]["findings"]}
    assert [value for name, value in check.items() if "same bits" in name] == [True] * 6
    assert done.stdout.rstrip().endswith(markdown(tmp_path)) and "Never run on a GPU" in markdown(tmp_path)


@pytest.mark.parametrize("smoke", [False, True])
def test_the_section_names_the_card_or_says_that_there_was_none(tmp_path, smoke):
    assert "no machine with one was there" in markdown(tmp_path)
    findings = [
        {"name": "engine", "value": {"device_name": "NVIDIA H100"}, "detail": None},
        {"name": "images a second", "value": 3.456, "detail": None},
    ]
    content = {"stage": "sd15", "smoke": smoke, "findings": findings}
    (tmp_path / "sd15.json").write_text(json.dumps(content))
    section = markdown(tmp_path)
    assert section.startswith("## Never run on a GPU" if smoke else "## On a GPU: NVIDIA H100")
    assert "| images a second | 3.46 |" in section
