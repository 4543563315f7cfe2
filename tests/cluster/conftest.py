"""Clusters of several Ray nodes on one machine, and runs on them with an engine that only sleeps."""

from __future__ import annotations

import json
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.cluster import driver
from tests.conftest import make_ray_folder
from tests.outputs import write_table

ROWS = 96
SHARD = 8


@pytest.fixture(scope="session")
def prompts(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("prompts") / "prompts.parquet"
    return write_table(path, {"prompt": [f"prompt {i}" for i in range(ROWS)]}, row_group_size=20)


@contextmanager
def nodes(count: int, **head: Any) -> Iterator[Any]:
    """A cluster of a head without CPUs and `count` nodes of one CPU each, with folders and ports of its own."""
    from ray.cluster_utils import Cluster

    make_ray_folder()
    # Ray's socket paths must stay below 107 bytes, which pytest's own temporary folders do not.
    with tempfile.TemporaryDirectory(prefix="sdb-ray-", ignore_cleanup_errors=True) as folder:
        options = {"num_cpus": 0, "include_dashboard": False, "temp_dir": folder} | head
        cluster = Cluster(initialize_head=True, head_node_args=options)
        try:
            for _ in range(count):
                cluster.add_node(num_cpus=1)
            yield cluster
        finally:
            cluster.shutdown()


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    with nodes(2) as cluster:
        yield cluster


class Run:
    """A run under way, and what it says."""

    def __init__(self, process: subprocess.Popen[str], out: Path) -> None:
        self.process = process
        self.out = out

    def finish(self, status: int = 0, seconds: float = 240) -> list[dict[str, Any]]:
        """Wait for its end; returns its log lines."""
        text, _ = self.process.communicate(timeout=seconds)
        assert self.process.returncode == status, text
        return [json.loads(line) for line in text.splitlines() if line.startswith("{")]

    def wait_for_markers(self, count: int, seconds: float = 120) -> None:
        deadline = time.monotonic() + seconds
        while len(list(self.out.glob("*_stats.json"))) < count:
            assert self.process.poll() is None, self.process.communicate()[0]
            assert time.monotonic() < deadline, "waited in vain for markers"
            time.sleep(0.05)

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()


@pytest.fixture
def start(prompts, tmp_path) -> Iterator[Callable[..., Run]]:
    """Start a run: `start(address, "out", stand_in={…}, actors=(2, 2), …)`."""
    started = []

    def start_one(address: str, name: str = "out", *, table: Path = prompts, **options: Any) -> Run:
        options = {"stand_in": {}, "device": "cpu", "shard_size": SHARD, "lanes": SHARD} | options
        process = driver.start(table, tmp_path / name, address=address, **options)
        started.append(Run(process, tmp_path / name))
        return started[-1]

    yield start_one
    for run in started:
        run.kill()


def events(lines: list[dict[str, Any]], event: str) -> list[dict[str, Any]]:
    return [line for line in lines if line["event"] == event]
