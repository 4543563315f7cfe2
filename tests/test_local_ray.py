"""The Ray that sdbatch starts for a run on one machine."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys

import psutil
import pytest

from tests.conftest import REPOSITORY
from tests.outputs import markers, write_table
from tests.processes import wait_for

SCRIPT = """
import json, psutil, ray
from sdbatch.run.cluster import connected

with connected(None):
    assert ray.get(ray.remote(num_cpus=0)(lambda: 1).remote()) == 1
    started = psutil.Process().children(recursive=True)
    print(json.dumps([(process.pid, process.cmdline()) for process in started]))
print(json.dumps([process.pid for process in started if process.is_running() and process.status() != "zombie"]))
"""


@pytest.fixture
def environment() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}


@pytest.mark.slow
def test_it_starts_what_a_run_uses_only_and_stops_it(tmp_path, environment):
    printed = subprocess.run(
        [sys.executable, "-c", SCRIPT], capture_output=True, text=True, check=True, env=environment, cwd=tmp_path
    ).stdout
    started, left = map(json.loads, printed.splitlines())
    commands = "\n".join(" ".join(command) for _, command in started)
    assert "gcs_server" in commands and "raylet" in commands
    for idle in ("dashboard/dashboard.py", "monitor.py"):
        assert idle not in commands
    psutil.wait_procs([psutil.Process(pid) for pid in left if psutil.pid_exists(pid)], timeout=10)
    assert not [pid for pid in left if psutil.pid_exists(pid)]


@pytest.mark.slow
@pytest.mark.parametrize("awaited", ["gcs_server", "raylet/raylet", "ray::"])
def test_sigterm_while_it_starts_ends_it_with_the_status_of_any_other_time(tmp_path, environment, awaited):
    command = (sys.executable, "-m", "sdbatch", "generate", "a red circle", "out")
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=environment, cwd=tmp_path)
    started: dict[int, psutil.Process] = {}

    def has_come() -> bool:
        started.update((child.pid, child) for child in psutil.Process(process.pid).children(recursive=True))
        return any(awaited in " ".join(command_of(child)) for child in started.values())

    wait_for(has_come)
    process.send_signal(signal.SIGTERM)
    _, printed = process.communicate(timeout=60)
    assert process.returncode == 3 and "terminated; run the same command again" in printed
    assert not psutil.wait_procs(list(started.values()), timeout=30)[1]


@pytest.mark.slow
def test_a_run_has_no_actors_of_ray_data_and_survives_the_loss_of_a_worker(tmp_path, environment):
    prompts = write_table(tmp_path / "p.parquet", {"prompt": ["a red circle"] * 24})
    command = (sys.executable, "-m", "tests.stand_in", "generate", prompts, tmp_path / "out", "--shard-size", "4")
    slow = {"PYTHONPATH": str(REPOSITORY), "SDBATCH_STAND_IN": json.dumps({"step_seconds": 0.5})}
    process = subprocess.Popen(
        [*command, "--actors", "1", "--lanes", "2"], stderr=subprocess.PIPE, env=environment | slow
    )
    seen: set[str] = set()
    workers: list[psutil.Process] = []

    def a_shard_is_finished() -> bool:
        children = psutil.Process(process.pid).children(recursive=True)
        named = {child: " ".join(command_of(child)) for child in children}
        seen.update(name.split("(")[0].split(".")[0] for name in named.values() if name.startswith("ray::"))
        workers[:] = [child for child, name in named.items() if name.startswith("ray::MapWorker")]
        return bool(workers) and any(tmp_path.glob("out/*_stats.json"))

    wait_for(a_shard_is_finished)
    (worker,) = workers
    worker.kill()
    process.communicate(timeout=120)
    assert process.returncode == 0 and len(markers(tmp_path / "out")) == 6
    assert {"ray::Coordinator", "ray::MapWorker"} <= seen
    assert not {name for name in seen if re.search("Stats|Autoscal|Location", name)}


def command_of(process: psutil.Process) -> list[str]:
    try:
        return process.cmdline()
    except psutil.NoSuchProcess:
        return []
