"""SIGTERM in every phase of a run: it ends soon, says so by its status, and the next one makes the same bytes."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.conftest import stand_in_process
from tests.outputs import content, markers, write_table

SETTINGS = ("--sampler", "euler_a", "--shard-size", "6", "--actors", "1", "--lanes", "2")
# An engine takes long enough to start and to make its pictures that every phase can be met.
SLOW = {"start_seconds": 2.0, "step_seconds": 0.2}
# What is in OUT when a phase begins; a worker loads its model between the first two.
PHASES: dict[str, Callable[[Path], bool]] = {
    "before workers": lambda out: True,
    "loading": lambda out: not (out / "run.json").exists(),
    "sampling": lambda out: (out / "run.json").exists(),
    "writing": lambda out: any(out.glob("0*/*.png")),
}

# A command that waits in Ray's C++ core, which raises a KeyboardInterrupt of its own after any signal.
WAITING = """
import sys
import ray
from sdbatch.cli import command
from sdbatch.run.cluster import connected

def wait(arguments):
    with connected(arguments[0]):
        never = ray.remote(resources={"what no node has": 1})(lambda: None).remote()
        print("waiting", flush=True)
        ray.get(never)

command._run = wait
command.console()
"""


@pytest.fixture(scope="module")
def prompts(tmp_path_factory) -> Path:
    return write_table(tmp_path_factory.mktemp("sigterm") / "p.parquet", {"prompt": ["a red circle"] * 36})


@pytest.fixture(scope="module")
def undisturbed(prompts, stand_in_command) -> dict[str, str]:
    stand_in_command("generate", prompts, prompts.parent / "undisturbed", *SETTINGS)
    return content(prompts.parent / "undisturbed")


@pytest.mark.parametrize("phase", PHASES)
def test_a_run_that_is_asked_to_end_ends_and_is_resumed(
    tmp_path, prompts, undisturbed, ray_session, stand_in_command, phase
):
    out = tmp_path / "out"
    process = stand_in_process("generate", prompts, out, *SETTINGS, address=ray_session, **SLOW)
    if phase != "before workers":
        assert any("starting workers" in line for line in process.stderr)
    until = time.monotonic() + 180
    while not PHASES[phase](out):
        assert process.poll() is None and time.monotonic() < until
        time.sleep(0.02)
    time.sleep(1.0 if phase == "loading" else 0.0)
    process.send_signal(signal.SIGTERM)
    _, printed = process.communicate(timeout=60)
    if phase != "before workers" or process.returncode != -signal.SIGTERM:  # as long as Python itself starts
        assert process.returncode == 3 and "terminated; run the same command again to resume" in printed
    left = markers(out)
    assert len(left) < 6
    stand_in_command("generate", prompts, out, *SETTINGS)
    assert content(out) == undisturbed
    assert markers(out).items() >= left.items()


@pytest.mark.parametrize(
    ("number", "told"), [(signal.SIGTERM, "terminated"), (signal.SIGINT, "interrupted")], ids=["SIGTERM", "SIGINT"]
)
def test_a_command_that_waits_for_ray_tells_which_signal_ended_it(ray_session, number, told):
    command = (sys.executable, "-c", WAITING, ray_session)
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout is not None and process.stdout.readline() == "waiting\n"
    time.sleep(0.5)
    process.send_signal(number)
    _, printed = process.communicate(timeout=60)
    assert process.returncode == 3 and printed == f"\nsdbatch: {told}; run the same command again to resume\n"
