"""What all tests share: one Ray for the session, and the real command."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parent.parent
# What takes its time: a cluster, an object store, a browser. `make test-fast` leaves out the tests that use one.
SLOW_FIXTURES = {"ray_session", "s3_server", "browser"}


@pytest.hookimpl(tryfirst=True)  # before pytest deselects by marker
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    slow: Counter[Path] = Counter()
    for item in items:
        if SLOW_FIXTURES & set(getattr(item, "fixturenames", ())):
            item.add_marker("slow")
        slow[item.path] += item.get_closest_marker("slow") is not None
    # Of files that several processes share out, the long ones come first: a last one would keep one process alone.
    items.sort(key=lambda item: -slow[item.path])


def make_ray_folder() -> None:
    """Make the folder where Ray notes the address of a cluster: `Cluster` expects it, and a new machine has none."""
    from ray._common.utils import get_default_ray_temp_dir

    os.makedirs(get_default_ray_temp_dir(), exist_ok=True)


@pytest.fixture(scope="session")
def ray_session() -> Iterator[str]:
    """A local Ray of two CPUs with ports and a folder of its own; yields its address."""
    from ray.cluster_utils import Cluster

    make_ray_folder()
    # Ray's socket paths must stay below 107 bytes, which pytest's own temporary folders do not.
    with tempfile.TemporaryDirectory(prefix="sdb-ray-") as folder:
        cluster = Cluster(
            initialize_head=True,
            head_node_args={"num_cpus": 2, "include_dashboard": False, "temp_dir": folder},
        )
        yield cluster.address
        cluster.shutdown()


Command = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture(scope="session")
def sdbatch_command(ray_session: str) -> Command:
    """The real command in a process of its own, on the session's Ray: `sdbatch_command("generate", …)`."""
    return _command("sdbatch", ray_session)


@pytest.fixture(scope="session")
def stand_in_command(ray_session: str) -> Command:
    """`sdbatch_command` with an engine that makes noise, where everything but the pictures is the subject."""
    return _command("tests.stand_in", ray_session)


def _command(module: str, address: str) -> Command:
    environment = os.environ | {"RAY_ADDRESS": address, "PYTHONPATH": str(REPOSITORY)}

    def run(*arguments: object, status: int = 0, **env: str) -> subprocess.CompletedProcess[str]:
        process = subprocess.run(
            [sys.executable, "-m", module, *map(str, arguments)],
            capture_output=True,
            text=True,
            env=environment | env,
            timeout=600,
        )
        assert process.returncode == status, f"exit {process.returncode}\n{process.stdout}\n{process.stderr}"
        return process

    return run
