"""SIGTERM in every phase of a run: it ends soon, says so by its status, and the next one makes the same bytes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.conftest import REPOSITORY
from tests.outputs import content, markers, write_table

SETTINGS = ("--steps", "12", "--sampler", "euler_a", "--shard-size", "6", "--actors", "1")
# What is in OUT when a phase begins; a worker loads its model between the first two.
PHASES: dict[str, Callable[[Path], bool]] = {
    "before workers": lambda out: True,
    "loading": lambda out: not (out / "run.json").exists(),
    "sampling": lambda out: (out / "run.json").exists(),
    "writing": lambda out: any(out.glob("0*/*.png")),
}


@pytest.fixture(scope="module")
def prompts(tmp_path_factory) -> Path:
    return write_table(tmp_path_factory.mktemp("sigterm") / "p.parquet", {"prompt": ["a red circle"] * 36})


@pytest.fixture(scope="module")
def undisturbed(prompts, sdbatch_command) -> dict[str, str]:
    sdbatch_command("generate", prompts, prompts.parent / "undisturbed", *SETTINGS)
    return content(prompts.parent / "undisturbed")


@pytest.mark.parametrize("phase", PHASES)
def test_a_run_that_is_asked_to_end_ends_and_is_resumed(
    tmp_path, prompts, undisturbed, ray_session, sdbatch_command, phase
):
    out, log = tmp_path / "out", tmp_path / "log"
    with log.open("w") as stderr:
        process = subprocess.Popen(
            [sys.executable, "-m", "sdbatch", "generate", str(prompts), str(out), *SETTINGS],
            env=os.environ | {"RAY_ADDRESS": ray_session, "PYTHONPATH": str(REPOSITORY)},
            stdout=subprocess.DEVNULL,
            stderr=stderr,
        )
    until = time.monotonic() + 180
    while not (phase == "before workers" or "starting workers" in log.read_text()) or not PHASES[phase](out):
        assert process.poll() is None and time.monotonic() < until
        time.sleep(0.02)
    time.sleep(1.0 if phase == "loading" else 0.0)
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=60) != 0
    left = markers(out)
    assert len(left) < 6
    sdbatch_command("generate", prompts, out, *SETTINGS)
    assert content(out) == undisturbed
    assert markers(out).items() >= left.items()
