"""Common fixtures: one Ray for the session, and the real command."""

from __future__ import annotations

import contextlib
import io
import json
import os
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import hypothesis
import pytest

from sdbatch.cli import main
from sdbatch.run.pipeline import generate
from tests.stand_in import STAND_IN

REPOSITORY = Path(__file__).resolve().parent.parent
# Several processes share the cores: a thread of torch that waits must not spin. Read when torch is first imported.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
# Ray Data's usage statistics take a process of their own.
os.environ.setdefault("RAY_DATA_USAGE_DISABLED", "1")
# A busy machine is no finding.
hypothesis.settings.register_profile("untimed", deadline=None)
hypothesis.settings.load_profile("untimed")
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


def pytest_runtest_setup(item: pytest.Item) -> None:
    end = os.environ.get("SDBATCH_TESTS_END")
    if end and time.time() > float(end):
        pytest.skip("NOT RUN: the time for this run of the tests is over")


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
        with pytest.MonkeyPatch.context() as patch:
            # Workers import the tests' own modules, such as the stand-in, from whichever folder a test runs in.
            patch.setenv("PYTHONPATH", os.pathsep.join(filter(None, [str(REPOSITORY), os.environ.get("PYTHONPATH")])))
            cluster = Cluster(
                initialize_head=True,
                # The monitor of logs reads those of all workers that ever ran, and takes a twentieth of a core.
                head_node_args={
                    "num_cpus": 2,
                    "include_dashboard": False,
                    "include_log_monitor": False,
                    "temp_dir": folder,
                },
            )
        yield cluster.address
        disconnect()
        cluster.shutdown()


_connection = contextlib.ExitStack()


def connect(address: str) -> None:
    """Connect this process to Ray as a run does, for all runs that follow: each connection starts processes anew."""
    import ray

    from sdbatch.run.cluster import connected

    if not ray.is_initialized():
        disconnect()
        _connection.enter_context(connected(address))


def disconnect() -> None:
    """End the connection of `connect`, for what connects in its own way."""
    _connection.close()


Command = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture(scope="session")
def sdbatch_command(ray_session: str) -> Command:
    """The real command on the session's Ray: `sdbatch_command("generate", …)`.

    It runs in this process, which saves seconds of imports, unless the test sets a variable of the environment.
    """
    return _command("sdbatch", ray_session)


@pytest.fixture(scope="session")
def stand_in_command(ray_session: str) -> Command:
    """`sdbatch_command` with an engine that makes noise, where everything but the pictures is the subject."""
    return _command("tests.stand_in", ray_session)


def _command(module: str, address: str) -> Command:
    environment = {"RAY_ADDRESS": address, "PYTHONPATH": str(REPOSITORY)}

    def run(*arguments: object, status: int = 0, **env: str) -> subprocess.CompletedProcess[str]:
        command = [str(argument) for argument in arguments]
        process = in_process(command, status == 2) if not env else in_its_own(command, env)
        assert process.returncode == status, f"exit {process.returncode}\n{process.stdout}\n{process.stderr}"
        return process

    def in_its_own(command: list[str], env: dict[str, str]) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", module, *command]
        return subprocess.run(command, capture_output=True, text=True, env=os.environ | environment | env, timeout=600)

    def in_process(command: list[str], is_refused: bool) -> subprocess.CompletedProcess[str]:
        with pytest.MonkeyPatch.context() as patch, threads_kept():
            patch.setenv("RAY_ADDRESS", address)
            if "--address" in command:
                disconnect()
            elif command[0] == "generate" and not is_refused:
                connect(address)
            if module != "sdbatch":
                patch.setitem(generate.__kwdefaults__, "make_engine", STAND_IN)
            return run_here(command)

    return run


def stand_in_process(*arguments: object, address: str, **changes: float) -> subprocess.Popen[str]:
    """The command with the stand-in engine in a process of its own; `changes` are attributes of its `StandIn`."""
    environment = {"RAY_ADDRESS": address, "PYTHONPATH": str(REPOSITORY), "SDBATCH_STAND_IN": json.dumps(changes)}
    return subprocess.Popen(
        [sys.executable, "-m", "tests.stand_in", *map(str, arguments)],
        env=os.environ | environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def run_here(command: list[str]) -> subprocess.CompletedProcess[str]:
    """The command in this process, with its exit status and what it printed."""
    stdout, stderr = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(stdout), contextlib.redirect_stderr(stderr):
        try:
            status = main(command)
        except SystemExit as exc:
            status = exc.code
    return subprocess.CompletedProcess(command, status, stdout.getvalue(), stderr.getvalue())


@contextlib.contextmanager
def threads_kept() -> Iterator[None]:
    """Within the block an engine may set torch's threads; other tests keep theirs."""
    torch = sys.modules.get("torch")
    threads = torch and torch.get_num_threads()
    try:
        yield
    finally:
        if torch:
            torch.set_num_threads(threads)
