"""All private parts of Ray that sdbatch uses; a version without them is refused with a one-line message."""

from __future__ import annotations

from typing import Any

import ray

from sdbatch.errors import RunError

try:
    from ray._private import worker as _worker
    from ray.data._internal.execution.execution_callback import ExecutionCallback
except ImportError as error:
    raise RunError(
        f"Ray {ray.__version__} lacks an internal that sdbatch needs ({error}); use one named in pyproject.toml"
    ) from error

__all__ = ["ExecutionCallback", "mute_task_output"]


def mute_task_output() -> None:
    """Keep Ray from printing the stack trace of every task that it retries, even with log_to_driver=False.

    The same text is in Ray's log files.
    """
    _worker.print_to_stdstream = _drop


def _drop(data: dict[str, Any], ignore_prefix: bool = False) -> None:
    """Print nothing."""
