"""Starts a worker in a process on any node, which may lack what the worker needs: even this package."""

from __future__ import annotations

import os
from typing import Any

import ray
from ray import cloudpickle

__all__ = ["shard_worker"]

RESTARTS_IN_A_ROW = 5


def shard_worker() -> type:
    """The class that Ray Data maps over shards.

    Ray Data silently and endlessly retries a worker whose arguments or class cannot be unpickled. So this class is
    local, and therefore pickled by value, needs only Ray, and unpickles the worker itself: the first argument is a
    pickled function that makes a `Worker`.
    """

    class ShardWorker:
        def __init__(self, make: bytes, coordinator: Any) -> None:
            context = ray.get_runtime_context()
            name = context.get_actor_id()
            starting = coordinator.starting.remote(name, context.get_node_id())
            if context.was_current_actor_reconstructed:
                ray.get(starting)  # raises if the run has ended meanwhile: this worker then no longer starts
            try:
                self._worker = cloudpickle.loads(make)(coordinator)
            except Exception as exc:
                # One of our own errors would happen again on any other node.
                is_ours = any(kind.__module__ == "sdbatch.errors" for kind in type(exc).__mro__)
                reason = str(exc).strip().partition("\n")[0]
                if not is_ours:
                    reason = f"{type(exc).__name__}: {reason}"
                if isinstance(exc, (ImportError, AttributeError)):
                    reason += " (are the same packages, and modules of your own, on all nodes?)"
                failure = coordinator.start_failed.remote(name, reason, is_ours)
                if context.was_current_actor_reconstructed and ray.get(failure) < RESTARTS_IN_A_ROW:
                    # Ray retries on any node with room; an exception would end the run.
                    os._exit(1)
                # Ray Data starts another worker instead; the coordinator decides how often.
                ray.get(failure)
                raise
            self._worker.register()

        def __call__(self, batch: Any) -> Any:
            return self._worker(batch)

    return ShardWorker
