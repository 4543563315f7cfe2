"""A dataset that is run while its driver looks after other things."""

from __future__ import annotations

import queue
import threading

from ray.data import Dataset
from ray.data._internal.execution.execution_callback import ExecutionCallback
from ray.exceptions import RayError, UserCodeException

from sdbatch.errors import RunError, SdbatchError
from sdbatch.output import ShardStats, marker_name

__all__ = ["Execution", "told"]


class _Stop(ExecutionCallback):
    """Ends the execution that is told to. Ray Data takes classes, not objects, so there is one word for all."""

    told = threading.Event()

    def on_execution_step(self, executor: object) -> None:
        if self.told.is_set():
            raise RunError("stopped")


class Execution:
    """Runs the graph in a thread of its own and hands over each shard's statistics as it finishes.

    One at a time in a process.
    """

    def __init__(self, dataset: Dataset) -> None:
        _Stop.told.clear()
        dataset.context.custom_execution_callback_classes.append(_Stop)
        self._dataset = dataset
        self._finished: queue.SimpleQueue[ShardStats | None] = queue.SimpleQueue()
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name="dataset", daemon=True)
        self._thread.start()

    def take(self, seconds: float) -> list[ShardStats] | None:
        """What has finished since the last call, after at most `seconds`; None when the dataset has ended.

        Raises:
            RunError: a worker or a read task gave up; says why.
        """
        taken: list[ShardStats] = []
        try:
            while True:
                stats = self._finished.get(timeout=seconds if not taken else 0)
                if stats is None:
                    break
                taken.append(stats)
        except queue.Empty:
            return taken
        if self._error is not None:
            raise told(self._error) from self._error
        if taken:
            self._finished.put(None)
            return taken
        return None

    def avoid(self, nodes: frozenset[str]) -> None:
        """Start no further worker on these nodes. Ray Data looks at its options anew for every start."""
        selector = {"ray.io/node-id": f"!in({','.join(sorted(nodes))})"} if nodes else None
        self._dataset.context.execution_options.label_selector = selector

    def stop(self) -> None:
        """Take the pool down, whatever it is at. Returns when the thread no longer uses Ray."""
        _Stop.told.set()
        self._thread.join()

    def _run(self) -> None:
        try:
            for batch in self._dataset.iter_batches(batch_size=None, batch_format="pyarrow"):
                for number, content in zip(batch["shard"].to_pylist(), batch["stats"].to_pylist(), strict=True):
                    self._finished.put(ShardStats.from_json(content, marker_name(number)))
        except BaseException as exc:  # raised again by `take`, in the driver's thread
            self._error = exc
        finally:
            self._finished.put(None)


def told(error: BaseException) -> BaseException:
    """What people should read: our own error if one is in the chain of causes; a bug stays what it is."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, SdbatchError):
            return RunError(f"the run broke: {cause}")
        cause = getattr(cause, "cause", None) or cause.__cause__
    if isinstance(error, (RayError, UserCodeException)):
        return RunError(f"the run broke: {str(error).strip().splitlines()[-1]}")
    return error
