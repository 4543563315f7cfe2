"""Ends a worker process that makes no progress, so that Ray restarts it."""

from __future__ import annotations

import contextlib
import faulthandler
import threading
import time
from collections.abc import Iterator

__all__ = ["StallGuard"]

REARM_SECONDS = 1.0
STDERR = 2


class StallGuard:
    """Ends this process if it has work and makes no progress for `seconds`.

    The stacks of all threads go to the worker's log. Ray restarts the worker, and its shards are made again, which
    counts as a death of each. A library call that hangs may hold the interpreter lock, so the
    timer is faulthandler's, whose thread does not need the lock.
    """

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._tasks = 0
        self._armed_at = 0.0
        self._lock = threading.Lock()

    @contextlib.contextmanager
    def working(self) -> Iterator[None]:
        """Guard one task; several may overlap."""
        with self._lock:
            self._tasks += 1
            self._arm()
        try:
            yield
        finally:
            with self._lock:
                self._tasks -= 1
                if self._tasks == 0:
                    faulthandler.cancel_dump_traceback_later()

    def progress(self) -> None:
        """Record progress: restart the timer."""
        with self._lock:
            if self._tasks and time.monotonic() - self._armed_at > REARM_SECONDS:
                self._arm()

    def _arm(self) -> None:
        faulthandler.dump_traceback_later(self._seconds, exit=True, file=STDERR)
        self._armed_at = time.monotonic()
