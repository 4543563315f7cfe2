"""Which shards may start in a worker: several at a time, or one that has lost workers, alone. Policy, without Ray."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator

__all__ = ["Gate"]


class Gate:
    """Lets many shards pass at a time, or one alone; none after an error, which ends the process or the run.

    A shard that started in a process that is about to end would count as one that lost its worker.
    """

    def __init__(self) -> None:
        self._condition = threading.Condition()
        self._inside = 0
        self._alone = False
        self._closed = False

    @contextlib.contextmanager
    def passing(self, alone: bool) -> Iterator[None]:
        with self._condition:
            self._condition.wait_for(lambda: not (self._closed or self._alone or (alone and self._inside)))
            self._inside += 1
            self._alone = alone
        try:
            yield
        except BaseException:
            self._closed = True
            raise
        with self._condition:
            self._inside -= 1
            self._alone = False
            self._condition.notify_all()
