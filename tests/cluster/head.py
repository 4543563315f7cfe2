"""A Ray head as people start it: `ray start --head`, in a process group of its own."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import psutil

__all__ = ["Head", "started_head"]

RAY = Path(sys.executable).with_name("ray")


@dataclass(frozen=True)
class Head:
    gcs_address: str
    dashboard: str
    metrics_port: int
    logs: Path
    environment: dict[str, str]


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("", 0))
        return probe.getsockname()[1]


@contextmanager
def started_head(arguments: Callable[[str], list[str]], dashboard: bool = False, **env: str) -> Iterator[Head]:
    """`ray start --head --block` with ports and a folder of its own, until the block ends.

    Args:
        arguments: further ones, given the address that the cluster will have.
        env: further environment variables of the head, and of whoever asks for them in `Head.environment`.
    """
    from ray._private.services import get_node_ip_address

    ports = {name: free_port() for name in ("port", "ray-client-server-port", "dashboard-agent-listen-port")}
    ports |= {"dashboard-port": free_port(), "metrics-export-port": free_port()}
    gcs_address = f"{get_node_ip_address()}:{ports['port']}"
    # A job's `python` is the first on the head's path.
    defaults = {"PATH": f"{RAY.parent}:{os.environ['PATH']}", "RAY_AUTH_MODE": "disabled"}
    environment = os.environ | defaults | env
    environment.pop("RAY_ADDRESS", None)
    # Ray's socket paths must stay below 107 bytes, which pytest's own temporary folders do not.
    with tempfile.TemporaryDirectory(prefix="sdb-ray-", ignore_cleanup_errors=True) as folder:
        process = subprocess.Popen(
            [RAY, "start", "--head", "--block", f"--temp-dir={folder}", "--disable-usage-stats",
             f"--include-dashboard={dashboard}", *(f"--{name}={port}" for name, port in ports.items()),
             *arguments(gcs_address)],
            env=environment, start_new_session=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        try:
            for port in (ports["port"], *([ports["dashboard-port"]] if dashboard else [])):
                _wait_for_port(port, process)
            yield Head(
                gcs_address,
                f"http://127.0.0.1:{ports['dashboard-port']}",
                ports["metrics-export-port"],
                Path(folder, "session_latest", "logs"),
                environment,
            )
        finally:
            _stop(process)


def _wait_for_port(port: int, process: subprocess.Popen) -> None:
    deadline = time.monotonic() + 120
    while process.poll() is None and time.monotonic() < deadline:
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.2)
    raise RuntimeError(f"no Ray head came up on port {port}")


def _stop(process: subprocess.Popen) -> None:
    """End it and everything that it started, the "machines" of a pretended cluster too."""
    family = psutil.Process(process.pid).children(recursive=True)
    process.send_signal(signal.SIGTERM)
    _, left = psutil.wait_procs([psutil.Process(process.pid), *family], timeout=20)
    for straggler in left:
        with contextlib.suppress(psutil.NoSuchProcess):
            straggler.kill()
