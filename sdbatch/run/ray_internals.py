"""All private parts of Ray that sdbatch uses; a version without them is refused with a one-line message."""

from __future__ import annotations

import contextlib
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

import ray

from sdbatch.errors import RunError

try:
    from ray._private import services as _services
    from ray._private import utils as _utils
    from ray._private import worker as _worker
    from ray._private.node import Node as _Node
    from ray._private.state import GlobalState
    from ray.data._internal.execution.execution_callback import ExecutionCallback
except ImportError as error:
    raise RunError(
        f"Ray {ray.__version__} lacks an internal that sdbatch needs ({error}); use one named in pyproject.toml"
    ) from error

__all__ = ["ExecutionCallback", "mute_task_output", "own_signal_handlers", "quick_local_start"]

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
