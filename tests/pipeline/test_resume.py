"""Killed at any moment and run again, a run writes the bytes that an undisturbed one writes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import REPOSITORY, stand_in_process
from tests.outputs import content, markers, write_table
from tests.processes import wait_for, workers

SETTINGS = ("--shard-size", "6")
ONE, TWO = ("--actors", "1"), ("--actors", "2")


@pytest.fixture(scope="module")
def prompts(tmp_path_factory) -> Path:
    table = {
        "prompt": [f"a {('red', 'green', 'blue', 'yellow')[i % 4]} circle" for i in range(48)],
        "steps": [8 + i % 9 for i in range(48)],
        "guidance_scale": [(1.0, 3.0, 7.5)[i % 3] for i in range(48)],
        "sampler": [("ddpm", "euler_a", "pndm", "dpmpp_2m")[i % 4] for i in range(48)],
    }
    return write_table(tmp_path_factory.mktemp("resume") / "prompts.parquet", table)


@pytest.fixture(scope="module")
def undisturbed(prompts, sdbatch_command) -> dict[str, str]:
    out = prompts.parent / "undisturbed"
    sdbatch_command("generate", prompts, out, *SETTINGS, *ONE)
    return content(out)


@pytest.fixture
def run(prompts, tmp_path, ray_session):
    """Starts the command on tmp_path/out; returns it with at least two markers there, and not all of them."""
    out, processes = tmp_path / "out", []

    def run(*settings: str) -> tuple[subprocess.Popen[bytes], Path]:
        process = subprocess.Popen(
            [sys.executable, "-m", "sdbatch", "generate", str(prompts), str(out), *SETTINGS, *settings],
            env=os.environ | {"RAY_ADDRESS": ray_session, "PYTHONPATH": str(REPOSITORY)},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        processes.append(process)
        wait_for(lambda: len(list(out.glob("*_stats.json"))) >= 2)
        return process, out

    yield run
    for process in processes:
        process.kill()
        process.wait()


def test_kill_9_of_the_driver(run, prompts, undisturbed, sdbatch_command, ray_session):
    process, out = run(*ONE)
    process.send_signal(signal.SIGKILL)
    process.wait()
    wait_for(lambda: not workers(ray_session))
    before = {p: p.stat().st_mtime_ns for p in out.glob("*_stats.json")}
    assert 0 < len(before) < 8
    sdbatch_command("generate", prompts, out, *SETTINGS, *ONE)
    assert content(out) == undisturbed
    assert {p: p.stat().st_mtime_ns for p in before} == before


def test_kill_9_of_one_of_two_actors(run, undisturbed, ray_session):
    """Nor does the number of actors change a byte: the undisturbed run had one."""
    process, out = run(*TWO)
    workers(ray_session)[0].kill()
    assert process.wait(timeout=300) == 0
    assert content(out) == undisturbed
    assert len(markers(out)) == 8


def test_two_runs_at_once_on_one_output_do_no_harm(prompts, tmp_path, stand_in_command, ray_session):
    out = tmp_path / "out"
    command = ("generate", prompts, out, *SETTINGS, *ONE, "--lanes", 2)
    first = stand_in_process(*command, address=ray_session, step_seconds=2.0)
    wait_for(lambda: any(out.glob("*_stats.json")))
    second = stand_in_process(*command, address=ray_session)  # which overtakes the first one
    said = [process.communicate(timeout=300)[0] for process in (first, second)]
    assert (first.returncode, second.returncode) == (0, 0), said
    # Both were at it.
    assert all(int(text.split(" of them made now")[0].rsplit(" ", 1)[1]) > 0 for text in said), said
    assert all("48 of 48 images are in" in text for text in said)
    stand_in_command("generate", prompts, tmp_path / "alone", *command[3:])
    assert content(out) == content(tmp_path / "alone")
    assert "0 bad" in stand_in_command("verify", out).stdout


def test_shards_that_another_run_has_made_meanwhile_are_not_counted_as_made(prompts, tmp_path, ray_session):
    arguments = ("generate", prompts, tmp_path / "out", *SETTINGS, *ONE, "--lanes", "2")
    first = stand_in_process(*arguments, address=ray_session, step_seconds=0.5)
    wait_for(lambda: any(tmp_path.glob("out/*_stats.json")))
    second = stand_in_process(*arguments, address=ray_session, start_seconds=18.0)
    printed = first.communicate(timeout=120)[0], second.communicate(timeout=120)[0]
    assert (first.returncode, second.returncode) == (0, 0)
    assert "48 of 48 images are in" in printed[0] and ", 48 of them made now" in printed[0]
    assert "48 of 48 images are in" in printed[1] and ", 0 of them made now" in printed[1]
