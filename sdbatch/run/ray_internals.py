"""All private parts of Ray that sdbatch uses; a version without them is refused with a one-line message."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Iterator
from typing import Any

import ray

from sdbatch.errors import RunError

try:
    from ray._private import utils as _utils
    from ray._private import worker as _worker
    from ray._private.node import Node as _Node
    from ray.data._internal.execution.execution_callback import ExecutionCallback
except ImportError as error:
    raise RunError(
        f"Ray {ray.__version__} lacks an internal that sdbatch needs ({error}); use one named in pyproject.toml"
    ) from error

__all__ = ["ExecutionCallback", "mute_task_output", "own_signal_handlers", "without_idle_services"]


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

    replace = _utils.set_sigterm_handler
    if signal.SIGTERM in handlers:
        _utils.set_sigterm_handler = _keep_handler
    if deferred:
        for number in handlers:
            signal.signal(number, defer)
    try:
        yield
    finally:
        _utils.set_sigterm_handler = replace
        # Also if none was deferred: Ray's C++ core has replaced SIGTERM's handler behind Python's back.
        for number, handler in handlers.items():
            signal.signal(number, handler)
        if received:
            signal.raise_signal(received[0])


def _keep_handler(handler: Any) -> None:
    """Set no handler."""


@contextlib.contextmanager
def without_idle_services() -> Iterator[None]:
    """For the block, a Ray that is started lacks its API server, its autoscaler's monitor and its log monitor.

    A run on one machine uses none of them. Ray has no option that leaves them out: even with include_dashboard=False it
    waits for the server at the start and for the autoscaler's monitor at the end, and with log_to_driver=False the logs
    are still watched.
    """
    kept = {name: getattr(_Node, name) for name in ("start_api_server", "start_monitor", "start_log_monitor")}
    for name in kept:
        setattr(_Node, name, _start_nothing)
    try:
        yield
    finally:
        for name, start in kept.items():
            setattr(_Node, name, start)


def _start_nothing(node: Any, **options: Any) -> None:
    """Start no process."""
