"""Killed at any moment and run again, a run writes the bytes that an undisturbed one writes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from tests.conftest import REPOSITORY
from tests.outputs import content, markers, write_table

SETTINGS = ("--steps", "12", "--sampler", "euler_a", "--shard-size", "6", "--actors", "2")


@pytest.fixture(scope="module")
def prompts(tmp_path_factory) -> Path:
    colours = ("red", "green", "blue", "yellow")
    table = {"prompt": [f"a {colours[i % 4]} circle" for i in range(72)], "steps": [8 + i % 9 for i in range(72)]}
    return write_table(tmp_path_factory.mktemp("resume") / "prompts.parquet", table)


@pytest.fixture(scope="module")
def undisturbed(prompts, sdbatch_command) -> dict[str, str]:
    out = prompts.parent / "undisturbed"
    sdbatch_command("generate", prompts, out, *SETTINGS)
    return content(out)


@pytest.fixture
def running(prompts, tmp_path, ray_session):
    """The command at work on tmp_path/out, with at least two markers and not all of them."""
    out = tmp_path / "out"
    process = started(prompts, out, ray_session)
    wait_for(lambda: len(list(out.glob("*_stats.json"))) >= 2)
    yield process, out
    process.kill()
    process.wait()


def started(prompts: Path, out: Path, address: str, *settings: str) -> subprocess.Popen[str]:
    """The command with `SETTINGS` and further ones, which go before those."""
    return subprocess.Popen(
        [sys.executable, "-m", "sdbatch", "generate", str(prompts), str(out), *SETTINGS, *settings],
        env=os.environ | {"RAY_ADDRESS": address, "PYTHONPATH": str(REPOSITORY)},
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )


def wait_for(condition, seconds: float = 180) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.05)


def workers(address: str) -> list[psutil.Process]:
    """The processes of actors on the Ray at `address`, by the title that Ray gives them."""
    found = []
    for process in psutil.process_iter(["cmdline"]):
        title = " ".join(process.info["cmdline"] or [])
        if title.startswith("ray::") and "ShardWorker" in title and is_of(process, address):
            found.append(process)
    return found


def is_of(process: psutil.Process, address: str) -> bool:
    """Whether the raylet that started a process belongs to the Ray at `address`."""
    try:
        return any(part.endswith(f"={address}") for part in process.parent().cmdline())
    except (psutil.NoSuchProcess, AttributeError):  # it ended meanwhile
        return False


def test_kill_9_of_the_driver(running, prompts, undisturbed, sdbatch_command, ray_session):
    process, out = running
    process.send_signal(signal.SIGKILL)
    process.wait()
    wait_for(lambda: not workers(ray_session))
    before = {p: p.stat().st_mtime_ns for p in out.glob("*_stats.json")}
    assert 0 < len(before) < 12
    sdbatch_command("generate", prompts, out, *SETTINGS)
    assert content(out) == undisturbed
    assert {p: p.stat().st_mtime_ns for p in before} == before


def test_kill_9_of_an_actor(running, undisturbed, ray_session):
    process, out = running
    workers(ray_session)[0].kill()
    assert process.wait(timeout=300) == 0
    assert content(out) == undisturbed
    assert len(markers(out)) == 12


def test_two_runs_at_once_on_one_output_do_no_harm(prompts, tmp_path, undisturbed, sdbatch_command, ray_session):
    out = tmp_path / "out"
    both = [started(prompts, out, ray_session, "--actors", "1") for _ in range(2)]
    said = [process.communicate(timeout=300)[0] for process in both]
    assert [process.returncode for process in both] == [0, 0], said
    # Both were at it: together they made more than there is.
    assert sum(int(text.split(" of them made now")[0].rsplit(" ", 1)[1]) for text in said) > 72
    assert all("72 of 72 images are in" in text for text in said)
    assert content(out) == undisturbed
    assert "0 bad" in sdbatch_command("verify", out).stdout
