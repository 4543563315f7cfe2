"""The one small actor of a run: who works on which shard, how often it went wrong, and how far everyone is."""

from __future__ import annotations

import time
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from sdbatch.ledger import Ledger
from sdbatch.startup import Startup

__all__ = ["Coordinator", "Snapshot", "start_coordinator"]

# A worker reports twice a second; one that has been silent for this long is no longer there.
SILENT_SECONDS = 30.0


@dataclass
class _Worker:
    counters: dict[str, float] = field(default_factory=dict)
    heard_at: float = field(default_factory=time.monotonic)


@dataclass(frozen=True)
class Snapshot:
    """How far a run is.

    Attributes:
        workers: counters (images, failed, …) of each live worker since its start, by name.
        totals: the same summed, workers that are gone included; how often a shard was `begun`, a worker `started`.
        lost_workers: how many deaths the ledger has counted.
        problems: what workers had to say, each text once.
        avoided_nodes: where no further worker should be started.
        hopeless: why no worker will ever start; None while there is hope.
        engines: how the workers' engines describe themselves, each different description once.
        broken: why a worker could not make its shard, which ends the run; None while all is well.
    """

    workers: dict[str, dict[str, float]]
    totals: dict[str, float]
    lost_workers: int
    problems: list[str]
    avoided_nodes: frozenset[str] = frozenset()
    hopeless: str | None = None
    broken: str | None = None
    engines: tuple[dict[str, Any], ...] = ()


@ray.remote(num_cpus=0)
class Coordinator:
    """Lives and dies with the driver: a resumed run starts with a clean slate."""

    def __init__(self) -> None:
        self._ledger = Ledger()
        self._startup = Startup()
        self._workers: dict[str, _Worker] = {}
        self._gone: Counter[str] = Counter()
        self._begun = self._started = 0
        self._problems: list[str] = []
        self._hopeless: str | None = None
        self._broken: str | None = None
        self._engines: list[dict[str, Any]] = []

    def starting(self, name: str, node: str) -> None:
        if self._startup.is_under_way(name):
            self.start_failed(name, "its process ended", False)
        self._startup.begun(name, node)

    def start_failed(self, name: str, reason: str, everywhere: bool) -> int:
        """A worker could not start; `everywhere` if no other node would mend that.

        Returns how many starts have failed in a row.
        """
        in_a_row = self._startup.failed(name)
        self.problem(f"a worker did not start: {reason}")
        if everywhere or self._startup.hopeless:
            self._hopeless = reason
        return in_a_row

    def register(self, name: str, engine: dict[str, Any]) -> None:
        """A worker process has started; one that Ray restarted keeps its name.

        Args:
            engine: how it describes itself: device, versions, what its checks found.
        """
        if engine not in self._engines:
            self._engines.append(engine)
        self._startup.succeeded(name)
        self._started += 1
        if name in self._workers:
            self._gone.update(self._workers[name].counters)
        self._workers[name] = _Worker()

    def deaths(self, shard: int) -> int:
        return self._ledger.deaths(shard, _live_nodes().__contains__)

    def begin(self, shard: int, node: str) -> None:
        self._begun += 1
        self._ledger.begin(shard, node)

    def end(self, shard: int) -> None:
        self._ledger.end(shard)

    def report(self, name: str, counters: dict[str, float]) -> None:
        state = self._workers[name]
        state.counters, state.heard_at = counters, time.monotonic()

    def broke(self, reason: str) -> None:
        """A shard could not be made for a reason that is no row's own: the store refuses, say."""
        self._broken = self._broken or reason

    def problem(self, text: str) -> None:
        """Something people should see once, however many workers say it."""
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
            totals=dict(totals) | {"begun": self._begun, "started": self._started},
            lost_workers=self._ledger.lost_workers,
            problems=list(self._problems),
            avoided_nodes=self._startup.avoided(_live_nodes()) if self._startup.suspects else frozenset(),
            hopeless=self._hopeless,
            broken=self._broken,
            engines=tuple(self._engines),
        )


def _live_nodes() -> set[str]:
    return {node["NodeID"] for node in ray.nodes() if node["Alive"]}


def start_coordinator() -> ray.actor.ActorHandle:
    """A coordinator on the driver's own node: it must not go with a spot machine."""
    here = ray.get_runtime_context().get_node_id()
    return Coordinator.options(scheduling_strategy=NodeAffinitySchedulingStrategy(here, soft=False)).remote()
