"""One actor of the pool: holds an engine, makes the shards it is handed, and writes them."""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import ray

from sdbatch.diffusion.request import GeneratedImage
from sdbatch.engine_loop import EngineLoop
from sdbatch.errors import SdbatchError
from sdbatch.ledger import ALONE_AFTER, GIVE_UP_AFTER
from sdbatch.metrics import WorkerMetrics
from sdbatch.models import fetch_model
from sdbatch.output import ModelLabel, ShardStats, ShardWriter, marker_name
from sdbatch.prompts import Columns, parse
from sdbatch.settings import RunSettings
from sdbatch.shards import Shard
from sdbatch.stall import StallGuard
from sdbatch.storage import Store

if TYPE_CHECKING:
    from sdbatch.diffusion import Engine

__all__ = ["Job", "ShardWorker", "load_engine", "measure_lanes", "pack", "unpack"]

REPORT_SECONDS = 0.5
RESTARTS_IN_A_ROW = 5


@dataclass(frozen=True)
class Job:
    """What every worker of a run is told: picklable, the same for all.

    `make_engine` gives a worker its engine: whatever can `submit` and `step` as `sdbatch.diffusion.Engine` does.
    """

    out: Store
    settings: RunSettings
    columns: Columns
    model: ModelLabel
    engine: Mapping[str, Any]
    make_engine: Callable[[Job], Engine]


def load_engine(job: Job) -> Engine:
    """The real engine, with its model fetched to this node and loaded."""
    from sdbatch.diffusion import Engine  # brings in torch, which the driver does without

    settings = job.settings
    model = fetch_model(
        settings.model,
        revision=settings.revision,
        variant=settings.variant,
        options=settings.storage_options,
    )
    return Engine(model, revision=settings.revision, variant=settings.variant, **job.engine)


@ray.remote
def measure_lanes(job: Job) -> int:
    """Lanes for all workers of an OUT, where nobody said how many: what an engine chooses on its device."""
    return job.make_engine(job).lanes


def pack(shard: Shard, table: pa.Table) -> pa.Table:
    """A shard as one row of a Ray Data block: where it is, and its rows as Arrow IPC in one cell."""
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as stream:
        stream.write_table(table)
    return pa.table(
        {
            "shard": [shard.number],
            "file": [shard.file],
            "first_row": [shard.first_row],
            "rows": [shard.rows],
            "table": pa.array([sink.getvalue().to_pybytes()], pa.large_binary()),
        }
    )


def unpack(batch: Mapping[str, np.ndarray]) -> tuple[Shard, pa.Table]:
    """The inverse of `pack`, from a Ray Data batch of one row."""
    shard = Shard(*(int(batch[name][0]) for name in ("shard", "file", "first_row", "rows")))
    return shard, pa.ipc.open_stream(batch["table"][0]).read_all()


class _Gate:
    """Many shards at a time may pass, or one alone."""

    def __init__(self) -> None:
        self._condition = threading.Condition()
        self._inside = 0
        self._alone = False

    @contextlib.contextmanager
    def passing(self, alone: bool) -> Iterator[None]:
        with self._condition:
            self._condition.wait_for(lambda: not self._alone and not (alone and self._inside))
            self._inside += 1
            self._alone = alone
        try:
            yield
        finally:
            with self._condition:
                self._inside -= 1
                self._alone = False
                self._condition.notify_all()


class ShardWorker:
    """The class that Ray Data maps over shards. Each call makes one shard; two calls run at a time."""

    def __init__(self, job: Job, coordinator: Any) -> None:
        context = ray.get_runtime_context()
        self._job = job
        self._coordinator = coordinator
        self._name = context.get_actor_id()
        self._node = context.get_node_id()
        self._gate = _Gate()
        self._guard = StallGuard(job.settings.stall_timeout)
        self._counters: Counter[str] = Counter()
        self._lock = threading.Lock()
        coordinator.starting.remote(self._name, self._node)
        try:
            self._metrics = WorkerMetrics(self._node)
            self._engine = job.make_engine(job)
            self._loop = EngineLoop(self._engine, self._guard.progress)
        except Exception as exc:
            # A mistake that we know by name would be made again on any other node.
            everywhere = isinstance(exc, SdbatchError)
            failure = coordinator.start_failed.remote(self._name, _in_one_line(exc), everywhere)
            if context.was_current_actor_reconstructed and ray.get(failure) < RESTARTS_IN_A_ROW:
                # Ray tries again, on whatever node has room; an exception would end the run with this worker.
                os._exit(1)
            # Ray Data starts another worker instead; the coordinator decides for how long it may go on so.
            ray.get(failure)
            raise
        self._started = time.monotonic()
        coordinator.register.remote(self._name, self._engine.describe())
        threading.Thread(target=self._report_forever, name="report", daemon=True).start()

    def __call__(self, batch: Mapping[str, np.ndarray]) -> dict[str, list[Any]]:
        shard, table = unpack(batch)
        stats = self._finished(shard)
        if stats is None:
            try:
                with self._guard.working():
                    stats = self._make(shard, table)
            except SdbatchError as exc:
                # Of a task's error only the text comes through Ray; the reason itself goes this way.
                ray.get(self._coordinator.broke.remote(str(exc)))
                raise
        return {"shard": [shard.number], "stats": [stats.to_json()]}

    def _finished(self, shard: Shard) -> ShardStats | None:
        """The content of the shard's marker, if another worker, or this one before it died, has finished it."""
        name = marker_name(shard.number)
        content = self._job.out.read(name) if self._job.out.exists(name) else b""
        return ShardStats.from_json(content, self._job.out.name(name)) if content else None

    def _make(self, shard: Shard, table: pa.Table) -> ShardStats:
        deaths = ray.get(self._coordinator.deaths.remote(shard.number))
        with self._gate.passing(alone=deaths >= ALONE_AFTER):
            ray.get(self._coordinator.begin.remote(shard.number, self._node))
            started = time.monotonic()
            rows = parse(table, self._job.columns, self._job.settings, shard.file, shard.first_row)
            writer = ShardWriter(
                self._job.out,
                shard.number,
                table,
                rows,
                self._job.columns,
                self._job.settings,
                self._job.model,
            )
            lost = f"its shard ended the worker process {deaths} times" if deaths >= GIVE_UP_AFTER else None
            self._fill(writer, rows, lost)
            stats = writer.finish(time.monotonic() - started, self._notes(deaths))
            self._coordinator.end.remote(shard.number)
            with self._lock:
                self._counters["shards"] += 1
            self._report()
            return stats

    def _notes(self, deaths: int) -> dict[str, Any]:
        """What sets a shard apart: workers it has lost, and halvings of lanes, after which pictures round otherwise."""
        notes = {"deaths": deaths, "out_of_memory": self._engine.describe().get("out_of_memory")}
        return {name: value for name, value in notes.items() if value}

    def _fill(self, writer: ShardWriter, rows: list[Any], lost: str | None) -> None:
        """Give the writer an outcome for every image of every row: made by the engine, or failed with a reason."""
        images = [(request, row.error or lost) for row in rows for request in row.requests]
        runnable = [index for index, (_, error) in enumerate(images) if error is None]

        def deliver(position: int, image: GeneratedImage) -> None:
            self._add(writer, runnable[position], image)

        for index, (request, error) in enumerate(images):
            if error is not None:
                self._add(writer, index, GeneratedImage(request, index, None, error))
        self._loop.run([images[index][0] for index in runnable], deliver)

    def _add(self, writer: ShardWriter, index: int, image: GeneratedImage) -> None:
        writer.add(index, image)
        with self._lock:
            self._counters["images" if image.error is None else "failed"] += 1
        if image.error is not None:
            self._metrics.failed(image.error)
        self._guard.progress()

    def _report_forever(self) -> None:
        while True:
            time.sleep(REPORT_SECONDS)
            self._report()

    def _report(self) -> None:
        with self._lock:
            counters = dict(self._counters)
        counters |= self._loop.counters | self._engine.counters | {"seconds": time.monotonic() - self._started}
        self._metrics.publish(counters)
        self._coordinator.report.remote(self._name, counters)


def _in_one_line(exc: Exception) -> str:
    text = str(exc).strip().partition("\n")[0]
    return text if isinstance(exc, SdbatchError) else f"{type(exc).__name__}: {text}"
