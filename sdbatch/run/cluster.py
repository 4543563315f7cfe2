"""The Ray cluster of a run: connecting or starting one, and its resources."""

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

from sdbatch.errors import RunError
from sdbatch.plan.capacity import Capacity, NodeGroup
from sdbatch.run.ray_internals import (
    mute_task_output,
    own_signal_handlers,
    quick_local_start,
    without_helper_actors,
)

__all__ = ["connected", "free_resources", "live_nodes", "survey"]

CONNECT_SECONDS = 20.0
# The resource that only the head node has.
HEAD = "node:__internal_head__"


@contextlib.contextmanager
def connected(address: str | None) -> Iterator[None]:
    """Connect to Ray for the block: the existing connection, the cluster at `address`, or a local one.

    A connection made here is closed at the end; an existing one is kept.

    Raises:
        RunError: no cluster answers at the address, or none can be started.
    """
    if ray.is_initialized():
        yield
        return
    _quieten()
    target = address or os.environ.get("RAY_ADDRESS") or "local"
    local = {"include_dashboard": False} if target == "local" else {}
    if local:  # Ray Data's usage statistics take a process of their own: seconds of a laptop's CPU, at the start
        os.environ.setdefault("RAY_DATA_USAGE_DISABLED", "1")
    _check_that_something_listens(target)
    try:
        start = quick_local_start() if local else contextlib.nullcontext()
        with _native_stderr_muted(), own_signal_handlers(deferred=bool(local)), start:
            ray.init(address=target, log_to_driver=False, logging_level=logging.ERROR, **local)
    except Exception as exc:  # Ray raises plain ones, such as that a node of its own took too long to start
        reason = " ".join(str(exc).split())
        if target == "local":
            raise RunError(f"Ray could not be started on this machine: {reason}") from exc
        raise RunError(f"no Ray cluster could be reached at {target}: {reason}{_token_hint()}") from exc
    except BaseException:  # a signal
        ray.shutdown()
        raise
    try:
        with without_helper_actors() if local else contextlib.nullcontext():
            yield
    finally:
        ray.shutdown()


def _token_hint() -> str:
    """Ray does not mention a missing token, and sends one only with RAY_AUTH_MODE=token."""
    return "" if "RAY_AUTH_MODE" in os.environ else " (if it requires a token: export RAY_AUTH_MODE=token)"


def _check_that_something_listens(target: str) -> None:
    """Fail early: Ray would silently wait for minutes for a cluster that no longer exists."""
    host, colon, port = target.rpartition(":")
    if not (colon and port.isdigit()) or "://" in target:
        return
    try:
        socket.create_connection((host, int(port)), CONNECT_SECONDS).close()
    except OSError as exc:
        raise RunError(f"no Ray cluster answers at {target}: {exc.strerror or exc}") from exc


def _quieten() -> None:
    """Silence Ray's own output, which would hide that of the run; Ray's log files keep everything."""
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")
    for name in ("ray.data", "ray._private.authentication"):
        logging.getLogger(name).setLevel(logging.CRITICAL)
    mute_task_output()


@contextlib.contextmanager
def _native_stderr_muted() -> Iterator[None]:
    """Mute file descriptor 2, where Ray's C++ core announces its log level; Python exceptions are still raised."""
    kept, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 2)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nowhere)


def survey() -> Capacity:
    """The cluster's resources, and those that its autoscaler may add."""
    groups, silent = _autoscaler()
    return Capacity(live_nodes(), groups, silent)


def live_nodes() -> list[dict[str, float]]:
    """The resources of every live node."""
    return [node["Resources"] for node in ray.nodes() if node["Alive"]]


def free_resources() -> dict[str, float]:
    """Free CPUs and GPUs of all nodes together."""
    available = ray.available_resources()
    return {name: available.get(name, 0.0) for name in ("CPU", "GPU")}


def _autoscaler() -> tuple[list[NodeGroup], bool]:
    """The node groups that the autoscaler may start, and whether one exists without saying so. It runs on the head."""
    context = ray.get_runtime_context()
    address = context.gcs_address
    if HEAD in _resources_of(context.get_node_id()):
        config, on_kubernetes = _autoscaling_config(address)  # a task would wait for a process of its own to start
    else:
        look = ray.remote(num_cpus=0, resources={HEAD: 0.001})(_autoscaling_config)
        config, on_kubernetes = ray.get(look.remote(address))
    if config is None:
        return [], on_kubernetes
    most = config["max_workers"]
    return [
        NodeGroup(kind["resources"], min(kind.get("max_workers", most), most))
        for name, kind in config["available_node_types"].items()
        if name != config["head_node_type"]
    ], False


def _resources_of(node_id: str) -> dict[str, float]:
    return next((node["Resources"] for node in ray.nodes() if node["NodeID"] == node_id), {})


def _autoscaling_config(address: str) -> tuple[dict[str, Any] | None, bool]:
    """The configuration of this node's autoscaler, and whether KubeRay runs one instead.

    Ray does not store it where a driver could read it, but it is an argument of the autoscaler's process.
    """
    for arguments in _command_lines():
        paths = [a.partition("=")[2] for a in arguments if a.startswith("--autoscaling-config=")]
        if paths and any(a.endswith(address) for a in arguments):
            return yaml.safe_load(Path(paths[0]).expanduser().read_text()), False
    # KubeRay runs its own autoscaler beside the head, and starts Ray without one.
    return None, "--no-monitor" in os.environ.get("KUBERAY_GEN_RAY_START_CMD", "")


def _command_lines() -> Iterator[list[str]]:
    for file in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):  # the process has ended meanwhile
            yield file.read_bytes().decode(errors="replace").split("\0")
