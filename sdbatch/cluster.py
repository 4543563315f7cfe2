"""The Ray cluster a run uses: joining or starting one, and what of it the pool of workers takes."""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Iterator
from dataclasses import dataclass

import ray

from sdbatch.errors import RunError, UsageError
from sdbatch.settings import RunSettings

__all__ = ["PoolSize", "connected", "has_gpus", "pool_size"]


@dataclass(frozen=True)
class PoolSize:
    """How many workers, and what each asks of Ray."""

    least: int
    most: int
    cpus: float
    gpus: float

    @property
    def fixed(self) -> bool:
        return self.least == self.most


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
    try:
        with _native_stderr_muted():
            ray.init(address=target, log_to_driver=False, logging_level=logging.ERROR, **local)
    except (ConnectionError, RuntimeError, ValueError) as exc:
        raise RunError(f"no Ray cluster could be reached at {target}: {exc}") from exc
    try:
        yield
    finally:
        ray.shutdown()


def _quieten() -> None:
    """Ray's own chatter must not bury what a run has to say; its log files keep everything."""
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")
    for name in ("ray.data", "ray._private.authentication"):
        logging.getLogger(name).setLevel(logging.ERROR)


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


def has_gpus() -> bool:
    """Whether the cluster's books hold a GPU."""
    return ray.cluster_resources().get("GPU", 0) > 0


def pool_size(settings: RunSettings, device: str, shards: int) -> PoolSize:
    """The pool for `shards` shards: all of the cluster unless `--actors` says otherwise, never more than shards.

    Raises:
        UsageError: no node of the cluster has what one worker asks for.
    """
    gpus = settings.gpus_per_actor if settings.gpus_per_actor is not None else float(device == "cuda")
    cpus = settings.cpus_per_actor if settings.cpus_per_actor is not None else 1.0
    fitting = sum(_fits(node["Resources"], cpus, gpus) for node in ray.nodes() if node["Alive"])
    if fitting == 0:
        have = ", ".join(f"{n:g} {name}" for name, n in _largest_node().items()) or "nothing"
        raise UsageError(
            f"one worker asks for {cpus:g} CPU and {gpus:g} GPU, and no node of the cluster has that "
            f"(the largest has {have}); lower --cpus-per-actor / --gpus-per-actor, or add nodes"
        )
    least, most = settings.actors or (fitting, fitting)
    most = max(1, min(most, shards))
    return PoolSize(min(least, most), most, cpus, gpus)


def _fits(resources: dict[str, float], cpus: float, gpus: float) -> int:
    """How many workers a node has room for when it is empty."""
    rooms = [resources.get(name, 0) / asked for name, asked in (("CPU", cpus), ("GPU", gpus)) if asked > 0]
    return int(min(rooms)) if rooms else 1


def _largest_node() -> dict[str, float]:
    nodes = [{k: n["Resources"].get(k, 0) for k in ("CPU", "GPU")} for n in ray.nodes() if n["Alive"]]
    return max(nodes, key=lambda r: (r["GPU"], r["CPU"]), default={})
