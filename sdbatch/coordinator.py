"""The one small actor of a run: who works on which shard, how often it went wrong, and how far everyone is."""

from __future__ import annotations

import time
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import ray

from sdbatch.ledger import Ledger

__all__ = ["Coordinator", "Snapshot"]


@dataclass
class _Worker:
    handle: Any
    node: str
    pid: int
    counters: dict[str, float] = field(default_factory=dict)
    moved_at: float = field(default_factory=time.monotonic)
    busy: bool = False


@dataclass(frozen=True)
class Snapshot:
    """How far a run is.

    Attributes:
        workers: counters (images, failed, …) of each live worker since its start, by name.
        totals: the same summed, workers that are gone included.
        lost_workers: how many deaths the ledger has counted.
        problems: what workers had to say, each text once.
    """

    workers: dict[str, dict[str, float]]
    totals: dict[str, float]
    lost_workers: int
    problems: list[str]


@ray.remote(num_cpus=0)
class Coordinator:
    """Lives and dies with the driver: a resumed run starts with a clean slate."""

    def __init__(self) -> None:
        self._ledger = Ledger()
        self._workers: dict[str, _Worker] = {}
        self._gone: Counter[str] = Counter()
        self._problems: list[str] = []

    def register(self, name: str, handle: Any, node: str, pid: int) -> None:
        """A worker process has started; one that Ray restarted keeps its name."""
        if name in self._workers:
            self._gone.update(self._workers[name].counters)
        self._workers[name] = _Worker(handle, node, pid)

    def deaths(self, shard: int) -> int:
        alive = {node["NodeID"] for node in ray.nodes() if node["Alive"]}
        return self._ledger.deaths(shard, alive.__contains__)

    def begin(self, shard: int, node: str) -> None:
        self._ledger.begin(shard, node)

    def end(self, shard: int) -> None:
        self._ledger.end(shard)

    def report(self, name: str, counters: dict[str, float], busy: bool) -> None:
        state = self._workers[name]
        if counters != state.counters or not busy:
            state.moved_at = time.monotonic()
        state.counters, state.busy = counters, busy

    def problem(self, text: str) -> None:
        """Something people should see once, however many workers say it."""
        if text not in self._problems:
            self._problems.append(text)

    def snapshot(self) -> Snapshot:
        workers = {name: state.counters for name, state in self._workers.items()}
        totals = Counter(self._gone)
        for counters in workers.values():
            totals.update(counters)
        return Snapshot(workers, dict(totals), self._ledger.lost_workers, list(self._problems))

    def restart_stalled(self, timeout: float) -> list[str]:
        """Kill workers that hold a shard and have not moved for `timeout` seconds; Ray starts them again."""
        now = time.monotonic()
        stalled = [state for state in self._workers.values() if state.busy and now - state.moved_at > timeout]
        for state in stalled:
            state.moved_at = now
            ray.kill(state.handle, no_restart=False)
        return [f"pid {state.pid} on node {state.node[:8]}" for state in stalled]
