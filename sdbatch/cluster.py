"""The Ray cluster a run uses: joining or starting one, and what it has."""

from __future__ import annotations

import contextlib
import logging
import os
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import ray
import yaml

from sdbatch.capacity import Capacity, NodeGroup
from sdbatch.errors import RunError

__all__ = ["connected", "free_resources", "live_nodes", "survey"]

CONNECT_SECONDS = 20.0


@contextlib.contextmanager
def connected(address: str | None) -> Iterator[None]:
    """A Ray connection for the time of the block: the caller's own, the cluster at `address`, or a local one.

    What was started or joined here is left again; a connection that was there before is kept.

    Raises:
        RunError: no cluster answers at the address.
    """
    if ray.is_initialized():
        yield
        return
    _quieten()
    target = address or os.environ.get("RAY_ADDRESS") or "local"
    local = {"include_dashboard": False} if target == "local" else {}
    _check_that_something_listens(target)
    try:
        with _native_stderr_muted():
            ray.init(address=target, log_to_driver=False, logging_level=logging.ERROR, **local)
    except (ConnectionError, RuntimeError, ValueError) as exc:
        raise RunError(f"no Ray cluster could be reached at {target}: {exc}{_token_hint()}") from exc
    try:
        yield
    finally:
        ray.shutdown()


def _token_hint() -> str:
    """Ray says nothing of tokens to who asks without one, and looks for one only if it is told to."""
    return "" if "RAY_AUTH_MODE" in os.environ else " (if it wants a token: export RAY_AUTH_MODE=token)"


def _check_that_something_listens(target: str) -> None:
    """Ray would wait for minutes, without a word, for a cluster that is gone."""
    host, colon, port = target.rpartition(":")
    if not (colon and port.isdigit()) or "://" in target:
        return
    try:
        socket.create_connection((host, int(port)), CONNECT_SECONDS).close()
    except OSError as exc:
        raise RunError(f"no Ray cluster answers at {target}: {exc.strerror or exc}") from exc


def _quieten() -> None:
    """Ray's own chatter must not bury what a run has to say; its log files keep everything."""
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")
    for name in ("ray.data", "ray._private.authentication"):
        logging.getLogger(name).setLevel(logging.CRITICAL)
    # Ray prints the stack trace of every task that it will try again, whatever log_to_driver says.
    ray._private.worker.print_to_stdstream = _drop


def _drop(data: dict[str, Any], ignore_prefix: bool = False) -> None:
    """Takes the place of Ray's printing; the same text is in its log files."""


@contextlib.contextmanager
def _native_stderr_muted() -> Iterator[None]:
    """Ray's C++ core announces on file descriptor 2 that its log level is set; Python's exceptions still come."""
    kept, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 2)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nowhere)


def survey() -> Capacity:
    """What the cluster has, and what its autoscaler may add if there is one and it says so."""
    groups, silent = _autoscaler()
    return Capacity(live_nodes(), groups, silent)


def live_nodes() -> list[dict[str, float]]:
    """The resources of every node that is there."""
    return [node["Resources"] for node in ray.nodes() if node["Alive"]]


def free_resources() -> dict[str, float]:
    """CPUs and GPUs that nobody uses now, all nodes together."""
    available = ray.available_resources()
    return {name: available.get(name, 0.0) for name in ("CPU", "GPU")}


def _autoscaler() -> tuple[list[NodeGroup], bool]:
    """What it may start, and whether there is one that does not say. Asked of the head, where it runs."""
    address = ray.get_runtime_context().gcs_address
    head = {"node:__internal_head__": 0.001}
    config, on_kubernetes = ray.get(_autoscaling_config.options(resources=head).remote(address))
    if config is None:
        return [], on_kubernetes
    most = config["max_workers"]
    return [
        NodeGroup(kind["resources"], min(kind.get("max_workers", most), most))
        for name, kind in config["available_node_types"].items()
        if name != config["head_node_type"]
    ], False


@ray.remote(num_cpus=0)
def _autoscaling_config(address: str) -> tuple[dict[str, Any] | None, bool]:
    """The configuration that this node's autoscaler was started with; whether KubeRay runs one instead.

    Ray keeps it nowhere where a driver could read it, but it is an argument of the autoscaler's process.
    """
    for arguments in _command_lines():
        paths = [a.partition("=")[2] for a in arguments if a.startswith("--autoscaling-config=")]
        if paths and any(a.endswith(address) for a in arguments):
            return yaml.safe_load(Path(paths[0]).expanduser().read_text()), False
    # With an autoscaler of its own beside the head, KubeRay starts Ray without one.
    return None, "--no-monitor" in os.environ.get("KUBERAY_GEN_RAY_START_CMD", "")


def _command_lines() -> Iterator[list[str]]:
    for file in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):  # the process has ended meanwhile
            yield file.read_bytes().decode(errors="replace").split("\0")
