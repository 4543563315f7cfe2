"""Killed repeatedly at random moments, a run writes in the end what an undisturbed one writes.

The seed is printed, and taken from CRASH_SEED if that is set; CRASH_ROUNDS says how often (1; `make test-crash`: 30).
With more than one round the engine is the real one; with one it makes noise, at the pace of the real one.
"""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from sdbatch.storage.store import Store
from tests.conftest import REPOSITORY
from tests.outputs import content, is_of_a_run, write_table
from tests.s3.server import S3Server, bucket, s3_server

__all__ = ["bucket", "s3_server"]

ROUNDS = int(os.environ.get("CRASH_ROUNDS", "1"))
SEED = int(os.environ.get("CRASH_SEED", str(random.randrange(10**6))))
MODULE = "sdbatch" if ROUNDS > 1 else "tests.stand_in"
STAND_IN = {"start_seconds": 2.0, "step_seconds": 0.4}
SETTINGS = ("--steps", "10", "--sampler", "euler_a", "--shard-size", "5", "--actors", "2", "--lanes", "4")
pytestmark = pytest.mark.slow  # each run starts a Ray of its own
VICTIMS = ("driver", "worker", "everything")


def command(prompts: str, out: str, options: dict) -> list[str]:
    settings = [*SETTINGS, "--storage-options", json.dumps(options)]
    return [sys.executable, "-m", MODULE, "generate", prompts, out, *settings]


def environment() -> dict[str, str]:
    """A Ray of its own for every run: the whole cluster is among the victims."""
    kept = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
    return kept | {"PYTHONPATH": str(REPOSITORY), "SDBATCH_STAND_IN": json.dumps(STAND_IN)}


def kill_at(seconds: float, victim: str, arguments: list[str]) -> bool:
    """Start a run, kill `victim` with signal 9 after `seconds`, and see everything of it end; whether it was killed."""
    process = psutil.Popen(arguments, env=environment(), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        process.wait(timeout=seconds)
        return False
    except psutil.TimeoutExpired:
        family = process.children(recursive=True)
    workers = [p for p in family if victim == "worker" and is_worker(p)]
    for one in workers[:1] or ([process] if victim == "driver" else [process, *family]):
        if is_alive(one):
            one.kill()
    if workers:
        process.wait(timeout=300)
    until = time.monotonic() + 5  # then whatever is left of it
    while any(is_alive(one) for one in family) and time.monotonic() < until:
        time.sleep(0.1)
    for one in family:
        if is_alive(one):
            one.kill()
    return True


def is_alive(process: psutil.Process) -> bool:
    """Whether the process runs; a zombie does not."""
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def is_worker(process: psutil.Process) -> bool:
    try:
        return any("ShardWorker" in part for part in process.cmdline())
    except psutil.NoSuchProcess:
        return False


def remote_content(store: Store) -> dict[str, bytes]:
    names = list(store.entries())
    inner = [f"{name}{file}" for name in names if name.endswith("/") for file in store.entries(name.rstrip("/"))]
    kept = [n for n in [*names, *inner] if not n.endswith("/") and not is_of_a_run(n)]
    return {name: store.read(name) for name in sorted(kept)}


@pytest.fixture(scope="module")
def prompts(tmp_path_factory) -> Path:
    colours = ("red", "green", "blue", "yellow")
    table = {"prompt": [f"a {colours[i % 4]} circle" if i % 13 else "" for i in range(50)]}
    return write_table(tmp_path_factory.mktemp("crash") / "prompts.parquet", table)


@pytest.fixture(scope="module")
def undisturbed(prompts) -> tuple[dict[str, str], float]:
    started = time.monotonic()
    process = subprocess.run(command(str(prompts), str(prompts.parent / "whole"), {}), env=environment())
    assert process.returncode == 1  # some prompts are empty
    return content(prompts.parent / "whole"), time.monotonic() - started


def crash_round(prompts: str, out: str, options: dict, seconds: float, chance: random.Random) -> str:
    """Kill a run at a random moment, then let another one of the same OUT finish. Returns this OUT."""
    # The first run of a machine is its slowest: a later one must not end before it is killed.
    moment, victim = chance.uniform(0, 0.6 * seconds), chance.choice(VICTIMS)
    print(f"kill {victim} after {moment:.1f} s")
    while not kill_at(moment, victim, command(prompts, out, options)):
        # It ended before: other work slowed the run down that was measured, and no longer does.
        out, moment = f"{out}-sooner", moment / 2
    process = subprocess.run(command(prompts, out, options), env=environment(), capture_output=True, text=True)
    assert process.returncode == 1, process.stderr
    return out


@pytest.mark.parametrize("number", range(ROUNDS))
def test_on_a_local_disk(number, tmp_path, prompts, undisturbed):
    print(f"CRASH_SEED={SEED} round {number}")
    whole, seconds = undisturbed
    out = crash_round(str(prompts), str(tmp_path / "out"), {}, seconds, random.Random(SEED + number))
    assert content(Path(out)) == whole


@pytest.mark.parametrize("number", range(ROUNDS))
def test_on_s3(number, prompts, undisturbed, bucket: str, s3_server: S3Server):
    print(f"CRASH_SEED={SEED} round {number}")
    whole, seconds = undisturbed
    Store(bucket, s3_server.options).write("prompts.parquet", prompts.read_bytes())
    chance = random.Random(SEED + 1000 + number)
    out = crash_round(f"{bucket}/prompts.parquet", f"{bucket}/out", s3_server.options, seconds, chance)
    folder = prompts.parent / "whole"
    local = {name: (folder / name).read_bytes() for name in whole}
    assert remote_content(Store(out, s3_server.options)) == dict(sorted(local.items()))
