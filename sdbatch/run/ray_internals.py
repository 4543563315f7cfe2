"""All private parts of Ray that sdbatch uses; a version without them is refused with a one-line message."""

from __future__ import annotations

import contextlib
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any
from uuid import uuid4

import ray

from sdbatch.errors import RunError

try:
    from ray._private import services as _services
    from ray._private import utils as _utils
    from ray._private import worker as _worker
    from ray._private.node import Node as _Node
    from ray._private.state import GlobalState
    from ray.data._internal.cluster_autoscaler import AutoscalingCoordinator, rate_based_cluster_autoscaler
    from ray.data._internal.execution.execution_callback import ExecutionCallback
    from ray.data._internal.execution.operators import actor_pool_map_operator
    from ray.data._internal.stats import _StatsManager
except ImportError as error:
    raise RunError(
        f"Ray {ray.__version__} lacks an internal that sdbatch needs ({error}); use one named in pyproject.toml"
    ) from error

__all__ = [
    "ExecutionCallback",
    "mute_task_output",
    "own_signal_handlers",
    "quick_local_start",
    "without_helper_actors",
]

REGISTRATION_SECONDS = 30
# An owner, the name of its function, and what takes its place.
Change = tuple[Any, str, Callable[..., Any]]


def mute_task_output() -> None:
    """Keep Ray from printing the stack trace of every task that it retries, even with log_to_driver=False.

    The same text is in Ray's log files.
    """
    _worker.print_to_stdstream = _drop


def _drop(data: dict[str, Any], ignore_prefix: bool = False) -> None:
    """Print nothing."""


@contextlib.contextmanager
def own_signal_handlers(*, deferred: bool) -> Iterator[None]:
    """For the block, keep Ray from replacing this process's handler of SIGTERM, if it has one.

    Ray's ends the process with the signal's number as its status.

    Args:
        deferred: whether SIGTERM and SIGINT wait for the end of the block, unless they come again. A Ray that is
            interrupted while it starts leaves processes behind, which end a minute later.
    """
    handlers = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    handlers = {number: handler for number, handler in handlers.items() if callable(handler)}
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    received: list[int] = []

    def defer(number: int, frame: Any) -> None:
        if number in received:
            signal.signal(number, handlers[number])
            signal.raise_signal(number)
        received.append(number)

    if deferred:
        for number in handlers:
            signal.signal(number, defer)
    try:
        with _replaced([(_utils, "set_sigterm_handler", _keep_handler)] if signal.SIGTERM in handlers else []):
            yield
    finally:
        # Also if none was deferred: Ray's C++ core has replaced SIGTERM's handler behind Python's back.
        for number, handler in handlers.items():
            signal.signal(number, handler)
        if received:
            signal.raise_signal(received[0])


def _keep_handler(handler: Any) -> None:
    """Set no handler."""


@contextlib.contextmanager
def quick_local_start() -> Iterator[None]:
    """For the block, have Ray start on this machine only what a run there uses, without waiting for seconds to pass.

    Ray has no options for this. Even with include_dashboard=False it waits for its API server at the start and for its
    autoscaler's monitor at the end, watches the logs, and gives each node an agent with a web server. It then asks
    once a second whether the node has come.
    """
    changes: list[Change] = [
        (_Node, "start_api_server", _start_nothing),
        (_Node, "start_monitor", _start_nothing),
        (_Node, "start_log_monitor", _start_nothing),
        (_utils, "get_dashboard_dependency_error", _no_dashboard),
        (_services, "get_node", partial(_node_once_registered, _services.get_node)),
    ]
    with _replaced(changes):
        yield


@contextlib.contextmanager
def _replaced(changes: Sequence[Change]) -> Iterator[None]:
    """For the block, replace functions of Ray."""
    before = [getattr(owner, name) for owner, name, _ in changes]
    for owner, name, changed in changes:
        setattr(owner, name, changed)
    try:
        yield
    finally:
        for (owner, name, _), kept in zip(changes, before, strict=True):
            setattr(owner, name, kept)


def _start_nothing(node: Any, **options: Any) -> None:
    """Start no process."""


def _no_dashboard() -> ImportError:
    """Have Ray take itself for one that was installed without its dashboard, whose agents are small."""
    return ImportError("sdbatch starts Ray without its dashboard")


def _node_once_registered(get_node: Callable[..., Any], gcs_address: str, node_id: str) -> Any:
    """Wait for the node to be known, or for Ray's own time, and return what Ray's function returns."""
    state = GlobalState()
    state._initialize_global_state(_services._get_gcs_client_options(gcs_address))
    ends = time.monotonic() + REGISTRATION_SECONDS
    while time.monotonic() < ends and not any(node["NodeID"] == node_id for node in state.node_table()):
        time.sleep(0.02)
    return get_node(gcs_address, node_id)


@contextlib.contextmanager
def without_helper_actors() -> Iterator[None]:
    """For the block, have Ray Data start none of its own actors, on a Ray of one machine.

    There are three: for its dashboard's statistics, for the autoscaler, and for the nodes of its workers. Each takes a
    process, and together they delay the first worker by 1.5 seconds on two cores.
    """
    changes: list[Change] = [
        (_StatsManager, "gen_dataset_id_from_stats_actor", _unique_name),
        (_StatsManager, "register_dataset_to_stats_actor", _record_nothing),
        (_StatsManager, "update_execution_metrics", _record_nothing),
        (_StatsManager, "update_iteration_metrics", _record_nothing),
        (rate_based_cluster_autoscaler, "DefaultAutoscalingCoordinator", _OneMachine),
        (actor_pool_map_operator, "get_or_create_actor_location_tracker", _Locations),
        (actor_pool_map_operator, "get_actor_locations", _no_news),
    ]
    with _replaced(changes):
        yield


def _unique_name() -> str:
    return uuid4().hex


def _record_nothing(*args: Any, **named: Any) -> None:
    """Record no statistics."""


def _no_news(actors: Sequence[str]) -> dict[str, str]:
    """The new nodes of workers that have moved: none. Ray Data knows where each has started."""
    return {}


class _OneMachine(AutoscalingCoordinator):
    """Reserves the whole machine for a dataset: without an autoscaler there is nothing to request."""

    def __init__(self, **options: Any) -> None:
        """Take the options of the class that this one replaces."""

    def request_resources(self, resources: Sequence[Any], expire_after_s: float, **options: Any) -> None:
        """Request nothing."""

    def cancel_request(self) -> None:
        """There is none."""

    def get_reserved_resources(self) -> dict[str, dict[str, float]]:
        return {node["NodeID"]: node["Resources"] for node in ray.nodes() if node["Alive"]}


class _Locations:
    """Takes the place of the actor that workers tell their nodes."""

    @property
    def update_actor_location(self) -> _Locations:
        return self

    def remote(self, *args: Any) -> None:
        """Keep nothing."""
