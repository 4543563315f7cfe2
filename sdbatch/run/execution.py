"""Executes the Ray Data graph in a thread beside the driver."""

from __future__ import annotations

import queue
import re
import threading
from collections import deque
from collections.abc import Iterator

from ray.data import Dataset
from ray.exceptions import RayError, UserCodeException

from sdbatch.errors import RunError, SdbatchError
from sdbatch.output import ShardStats, marker_name
from sdbatch.run.ray_internals import ExecutionCallback

__all__ = ["Execution", "error_to_show"]


TERMINAL_CODES = re.compile(r"\x1b\[[0-9;]*m")
OUR_ERROR = re.compile(r"sdbatch\.errors\.\w+: ")
NAMED_ERROR = re.compile(r"[A-Za-z_][\w.]*(Error|Exception|Interrupt|Exit): ")

Finished = tuple[ShardStats, bool]
"""The statistics of a finished shard, and whether this run made it."""


class _Stop(ExecutionCallback):
    """Ends an execution on request. Ray Data takes classes, not objects, so the flag is shared."""

    requested = threading.Event()

    def on_execution_step(self, executor: object) -> None:
        if self.requested.is_set():
            raise RunError("stopped")


class Execution:
    """Runs the graph in its own thread and passes on the shards as they finish.

    One at a time per process.
    """

    def __init__(self, dataset: Dataset) -> None:
        _Stop.requested.clear()
        dataset.context.custom_execution_callback_classes.append(_Stop)
        self._dataset = dataset
        self._finished: queue.SimpleQueue[Finished | None] = queue.SimpleQueue()
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name="dataset", daemon=True)
        self._thread.start()

    def take(self, seconds: float) -> list[Finished] | None:
        """The shards finished since the last call, after at most `seconds`; None when the dataset has ended.

        Raises:
            RunError: a worker or a read task failed for good; the message says why.
        """
        taken: list[Finished] = []
        try:
            while True:
                finished = self._finished.get(timeout=seconds if not taken else 0)
                if finished is None:
                    break
                taken.append(finished)
        except queue.Empty:
            return taken
        if self._error is not None:
            raise error_to_show(self._error) from self._error
        if taken:
            self._finished.put(None)
            return taken
        return None

    def avoid(self, nodes: frozenset[str]) -> None:
        """Start no further worker on these nodes. Ray Data reads its options again for every start."""
        selector = {"ray.io/node-id": f"!in({','.join(sorted(nodes))})"} if nodes else None
        self._dataset.context.execution_options.label_selector = selector

    def stop(self) -> None:
        """Stop the pool at once. Returns when the thread no longer uses Ray."""
        _Stop.requested.set()
        self._thread.join()

    def _run(self) -> None:
        try:
            for batch in self._dataset.iter_batches(batch_size=None, batch_format="pyarrow"):
                for shard in batch.to_pylist():
                    stats = ShardStats.from_json(shard["stats"], marker_name(shard["shard"]))
                    self._finished.put((stats, shard["is_made"]))
        except BaseException as exc:  # raised again by `take`, in the driver's thread
            self._error = exc
        finally:
            self._finished.put(None)


def error_to_show(error: BaseException) -> BaseException:
    """The error to show: our own if one is in the chain of causes, else the innermost, in one line.

    A bug in the driver itself is returned unchanged.
    """
    chain = list(_causes(error))
    for cause in chain:
        # Ray wraps a task's error in one of the same class, whose text is a remote traceback.
        if isinstance(cause, SdbatchError) and not isinstance(cause, RayError):
            # Our messages have one line; Ray has added the rest.
            return RunError(f"the run broke: {str(cause).splitlines()[0]}")
    if not isinstance(error, (RayError, UserCodeException)):
        return error
    return RunError(f"the run broke: {_in_one_line(chain)}")


def _causes(error: BaseException) -> Iterator[BaseException]:
    """An error and its causes, outermost first, however libraries store them."""
    seen, waiting = set(), deque([error])
    while waiting:
        current = waiting.popleft()
        if id(current) in seen:
            continue
        seen.add(id(current))
        yield current
        behind = (getattr(current, "cause", None), current.__cause__, current.__context__)
        grouped = current.exceptions if isinstance(current, BaseExceptionGroup) else ()
        waiting.extend(cause for cause in (*behind, *grouped) if isinstance(cause, BaseException))


def _in_one_line(chain: list[BaseException]) -> str:
    """One line for a chain of errors, outermost first.

    An error that could not be unpickled in this process is a line in a remote traceback; Ray may have added
    text about its own settings below it.
    """
    lines = [line.strip() for error in chain for line in TERMINAL_CODES.sub("", str(error)).splitlines()]
    for pattern in (OUR_ERROR, NAMED_ERROR):
        if named := [line for line in lines if pattern.match(line)]:
            return OUR_ERROR.sub("", named[-1])
    innermost = chain[-1]
    first = next((line.strip() for line in str(innermost).splitlines() if line.strip()), "")
    return f"{type(innermost).__name__}: {first}" if first else type(innermost).__name__
