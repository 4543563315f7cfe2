"""The coordinator actor: tracks shards, failures and progress of all workers of a run."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from sdbatch.run.faults.avoided_nodes import unless_all
from sdbatch.run.faults.findings import Findings
from sdbatch.run.faults.shard_attempts import Ledger
from sdbatch.run.faults.startup import Startup
from sdbatch.run.faults.worker_health import WorkerHealth

__all__ = ["Coordinator", "Snapshot", "start_coordinator"]

# A worker reports twice a second; one that has been silent for this long is considered gone.
SILENT_SECONDS = 30.0


@dataclass
class _Worker:
    counters: dict[str, float] = field(default_factory=dict)
    heard_at: float = field(default_factory=time.monotonic)


@dataclass(frozen=True)
class Snapshot:
    """The progress of a run.

    Attributes:
        workers: counters (images, failed, …) of each live worker since its start, by name.
        totals: their sums, including workers that are gone; also `started_shards` and `started_workers`.
        lost_workers: number of deaths in the ledger.
        problems: messages of the workers, without duplicates.
        avoided_nodes: nodes where no further worker should be started.
        hopeless: why no worker can ever start; None otherwise.
        engines: the distinct descriptions of the workers' engines.
        findings: consequences of devices and libraries for the dataset; also among the problems.
        broken: why a shard could not be made, which ends the run; None otherwise.
    """

    workers: dict[str, dict[str, float]] = field(default_factory=dict)
    totals: dict[str, float] = field(default_factory=dict)
    lost_workers: int = 0
    problems: list[str] = field(default_factory=list)
    avoided_nodes: frozenset[str] = frozenset()
    hopeless: str | None = None
    broken: str | None = None
    engines: tuple[Mapping[str, Any], ...] = ()
    findings: tuple[str, ...] = ()


@ray.remote(num_cpus=0)
class Coordinator:
    """Lives as long as the driver: a resumed run starts with empty counts."""

    def __init__(self, started_with: Mapping[str, Any]) -> None:
        self._findings = Findings(started_with)
        self._ledger = Ledger()
        self._startup = Startup()
        self._health = WorkerHealth()
        self._faults: dict[int, str] = {}
        self._workers: dict[str, _Worker] = {}
        self._gone: Counter[str] = Counter()
        self._started_shards = self._started_workers = 0
        self._problems: list[str] = []
        self._hopeless: str | None = None
        self._broken: str | None = None
        self._opened: tuple[str | None] | None = None

    def starting(self, name: str, node: str) -> None:
        if self._startup.is_starting(name):
            self.start_failed(name, "its process ended", False)
        self._startup.starting(name, node)

    def start_failed(self, name: str, reason: str, everywhere: bool) -> int:
        """Record that a worker could not start; `everywhere` if it would fail on any node.

        Returns the number of consecutive failed starts.
        """
        in_a_row = self._startup.failed(name)
        self.problem(f"a worker did not start: {reason}")
        if everywhere or self._startup.hopeless:
            self._hopeless = reason
        return in_a_row

    def register(self, name: str, engine: dict[str, Any], same_device: bool = False) -> str | None:
        """Record that a worker process has started; one that Ray restarted keeps its name.

        Args:
            engine: the engine's description: device, versions, results of its checks.
            same_device: refuse a device of another kind than the one OUT was started on, or the first worker's.

        Returns why this worker must not work, which ends the run; None if it may.
        """
        if same_device and (reason := self._findings.refused(engine)):
            self.broke(reason)
            return reason
        self.described(engine)
        self._startup.succeeded(name)
        self._started_workers += 1
        if name in self._workers:
            self._gone.update(self._workers[name].counters)
        self._workers[name] = _Worker()
        return None

    def described(self, engine: dict[str, Any]) -> None:
        """Record an engine's description: at its start, and after further checks of its device."""
        for text in self._findings.add(engine):
            self.problem(text)

    def open(self, run: str | None) -> None:
        """Record that OUT is ready for shards; `run` is its identity, which their markers carry."""
        self._opened = (run,)

    def opened(self) -> tuple[str | None] | None:
        """OUT's identity in a tuple; None until shards may be made."""
        return self._opened

    def deaths(self, shard: int) -> tuple[int, str | None]:
        """How often a shard has lost its worker, and the last reported reason, if any."""
        return self._ledger.deaths(shard, _live_nodes().__contains__), self._faults.get(shard)

    def begin(self, shard: int, node: str) -> None:
        self._started_shards += 1
        self._ledger.begin(shard, node)

    def has_started(self, shard: int) -> bool:
        """Whether a worker of this run has started the shard, however that ended."""
        return self._ledger.has_started(shard)

    def end(self, shard: int, node: str, given_up: bool) -> None:
        self._ledger.end(shard)
        if not given_up:
            self._health.finished(node)

    def engine_failed(self, node: str, shards: list[int], reason: str) -> None:
        """Record that an engine failed while it made these shards; its process ends now."""
        self.problem(f"an engine failed; its worker is restarted: {reason}")
        self._faults |= dict.fromkeys(shards, reason)
        self._health.failed(node)
        if self._health.hopeless(len(self._workers)):
            self.broke(f"engines fail repeatedly, and no shard is finished: {reason}")

    def report(self, name: str, counters: dict[str, float]) -> None:
        state = self._workers[name]
        state.counters, state.heard_at = counters, time.monotonic()

    def broke(self, reason: str) -> None:
        """Record that a shard could not be made for a reason outside its rows, such as a storage error."""
        self._broken = self._broken or reason

    def problem(self, text: str) -> None:
        """Record a message that is shown once, even if several workers report it."""
        if text not in self._problems:
            self._problems.append(text)

    def snapshot(self) -> Snapshot:
        now = time.monotonic()
        heard = {name: w.counters for name, w in self._workers.items() if now - w.heard_at < SILENT_SECONDS}
        totals = Counter(self._gone)
        for state in self._workers.values():
            totals.update(state.counters)
        return Snapshot(
            workers=heard,
            totals={**totals, "started_shards": self._started_shards, "started_workers": self._started_workers},
            lost_workers=self._ledger.lost_workers,
            problems=list(self._problems),
            avoided_nodes=self._avoided(),
            hopeless=self._hopeless,
            broken=self._broken,
            engines=tuple(self._findings.workers),
            findings=tuple(self._findings.lines),
        )

    def _avoided(self) -> frozenset[str]:
        if not (self._startup.suspects or self._health.suspects):
            return frozenset()  # avoids querying the cluster twice a second
        nodes = _live_nodes()
        return unless_all(self._startup.avoided(nodes) | self._health.avoided(nodes), nodes)


def _live_nodes() -> set[str]:
    return {node["NodeID"] for node in ray.nodes() if node["Alive"]}


def start_coordinator(started_with: Mapping[str, Any]) -> ray.actor.ActorHandle:
    """Start a coordinator on the driver's own node, so that it is not lost with a spot machine.

    Args:
        started_with: the device and the libraries that OUT was started with, see `Findings`.
    """
    here = ray.get_runtime_context().get_node_id()
    actor: Any = Coordinator  # Ray's decorator has no types
    return actor.options(scheduling_strategy=NodeAffinitySchedulingStrategy(here, soft=False)).remote(started_with)
