"""The Ray that sdbatch starts for a run on one machine."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import psutil
import pytest

SCRIPT = """
import json, psutil, ray
from sdbatch.run.cluster import connected

with connected(None):
    assert ray.get(ray.remote(num_cpus=0)(lambda: 1).remote()) == 1
    started = psutil.Process().children(recursive=True)
    print(json.dumps([(process.pid, process.cmdline()) for process in started]))
print(json.dumps([process.pid for process in started if process.is_running() and process.status() != "zombie"]))
"""


@pytest.mark.slow
def test_it_starts_what_a_run_uses_only_and_stops_it(tmp_path):
    environment = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
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
