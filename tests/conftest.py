"""What all tests share: one Ray for the session, and the real command."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="session")
def ray_session() -> Iterator[str]:
    """A local Ray of two CPUs with ports and a folder of its own; yields its address."""
    from ray.cluster_utils import Cluster

    # Ray's socket paths must stay below 107 bytes, which pytest's own temporary folders do not.
    with tempfile.TemporaryDirectory(prefix="sdb-ray-") as folder:
        cluster = Cluster(
            initialize_head=True,
            head_node_args={"num_cpus": 2, "include_dashboard": False, "temp_dir": folder},
        )
        yield cluster.address
        cluster.shutdown()


@pytest.fixture(scope="session")
def sdbatch_command(ray_session: str) -> Callable[..., subprocess.CompletedProcess[str]]:
    """The real command in a process of its own, on the session's Ray: `sdbatch_command("generate", …)`."""
    environment = os.environ | {"RAY_ADDRESS": ray_session, "PYTHONPATH": str(REPOSITORY)}

    def run(*arguments: object, status: int = 0, **env: str) -> subprocess.CompletedProcess[str]:
        process = subprocess.run(
            [sys.executable, "-m", "sdbatch", *map(str, arguments)],
            capture_output=True,
            text=True,
            env=environment | env,
            timeout=600,
        )
        assert process.returncode == status, f"exit {process.returncode}\n{process.stdout}\n{process.stderr}"
        return process

    return run
