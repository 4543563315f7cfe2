"""A run, from a prompt table to a dataset: plan, start the graph, look after it until it ends, sum up."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol

import ray
from ray.exceptions import RayError

from sdbatch.capacity import Capacity, PoolSize, pool_size
from sdbatch.cluster import connected, free_resources, live_nodes, survey
from sdbatch.coordinator import Snapshot, start_coordinator
from sdbatch.engine_config import resolve_engine
from sdbatch.errors import RunError
from sdbatch.execution import Execution, told
from sdbatch.graph import graph
from sdbatch.output import ModelLabel, ShardStats, marker_name
from sdbatch.output.removal import remove_output
from sdbatch.plan import Plan, make_plan
from sdbatch.record import RunRecord
from sdbatch.report import RunReport
from sdbatch.settings import RunSettings
from sdbatch.shards import select
from sdbatch.worker import Job, load_engine, measure_lanes

__all__ = ["Progress", "generate"]

POLL_SECONDS = 0.5
WORTH_SAYING_SECONDS = 20.0


class Progress(Protocol):
    """Who wants to know how a run goes."""

    def begin(self, plan: Plan, engine: Mapping[str, Any], pool: PoolSize) -> None: ...
    def update(self, snapshot: Snapshot) -> None: ...
    def waiting(self, seconds: float, reason: Callable[[], str]) -> None: ...


def generate(
    prompts: str,
    out: str,
    *,
    progress: Progress | None = None,
    make_engine: Callable[[Job], Any] = load_engine,
    **options: Any,
) -> RunReport:
    """Make the images of a prompt table; the command line's `sdbatch generate`.

    Args:
        prompts: a table (Parquet, CSV, TSV, JSONL, txt), a folder or a glob of such, local or any fsspec URL;
            or one prompt.
        out: the folder or URL to fill; what it already holds is kept, and only what is missing is made.
        progress: told how far the run is, about twice a second.
        make_engine: what gives a worker its engine, if it is not to be the real one; see `worker.Job`.
        options: the fields of `RunSettings`.

    Raises:
        UsageError: bad usage or bad input, before any model is loaded.
        RunError: the run itself broke; running it again resumes.
    """
    settings = _with_absolute_model(RunSettings.from_options(options))
    plan = make_plan(prompts, out, settings)
    plan.out.probe()
    if settings.overwrite:
        remove_output(plan.out)
    report = RunReport(plan.out.url, price_per_hour=settings.price_per_hour)
    record = plan.record
    if plan.todo:
        with connected(settings.address):
            record = _run(plan, settings, report, progress, make_engine)
    todo = {shard.number for shard in plan.todo}
    earlier = [marker_name(shard.number) for shard in select(plan.shards, todo, settings.part)]
    for name, content in zip(earlier, plan.out.read_many(earlier), strict=True):
        report.add(ShardStats.from_json(content, name))
    dataclasses.replace(record, report=report.to_json()).save(plan.out)
    return report


def _with_absolute_model(settings: RunSettings) -> RunSettings:
    """The same, for workers, which run in folders of their own."""
    if settings.model == "tiny" or not Path(settings.model).is_dir():
        return settings
    return dataclasses.replace(settings, model=str(Path(settings.model).absolute()))


def _run(
    plan: Plan,
    settings: RunSettings,
    report: RunReport,
    progress: Progress | None,
    make_engine: Callable[[Job], Any],
) -> RunRecord:
    """Make the shards that are to do; returns the record with the engines' set-up in it."""
    capacity = survey()
    engine = resolve_engine(settings, plan.record.engine, has_gpus=capacity.has_gpus)
    if settings.cpus_per_actor is None and engine["threads"] is not None:
        settings = dataclasses.replace(settings, cpus_per_actor=float(engine["threads"]))
    pool = pool_size(settings, engine["device"], len(plan.todo), capacity)
    if progress is not None:
        progress.begin(plan, engine, pool)
    job = Job(
        out=plan.out,
        settings=settings,
        columns=plan.columns,
        model=ModelLabel(plan.model.name, plan.record.model["hash"], plan.model.height, plan.model.width),
        engine=engine,
        make_engine=make_engine,
    )
    if engine["lanes"] is None:
        job = _with_measured_lanes(job, pool)
    record = dataclasses.replace(plan.record, engine=job.engine)
    record.save(plan.out)
    _Attended(plan, pool, capacity, job, report, progress).run()
    return record


def _with_measured_lanes(job: Job, pool: PoolSize) -> Job:
    """The job with a count of lanes that one worker measures and all have: pictures must not depend on the node."""
    task = measure_lanes.options(num_cpus=pool.ask.cpus, num_gpus=pool.ask.gpus).remote(job)
    ready, _ = ray.wait([task], timeout=job.settings.start_timeout)
    if not ready:
        raise RunError(f"no worker to measure lanes on for {job.settings.start_timeout:.0f} seconds (--start-timeout)")
    try:
        lanes = ray.get(task)
    except RayError as exc:
        raise told(exc) from exc
    return dataclasses.replace(job, engine={**job.engine, "lanes": lanes})


class _Attended:
    """A graph at work, and the driver beside it."""

    def __init__(
        self,
        plan: Plan,
        pool: PoolSize,
        capacity: Capacity,
        job: Job,
        report: RunReport,
        progress: Progress | None,
    ) -> None:
        self._pool = pool
        self._capacity = capacity
        self._report = report
        self._progress = progress
        self._start_timeout = job.settings.start_timeout
        self._coordinator = start_coordinator()
        self._snapshot: Snapshot = ray.get(self._coordinator.snapshot.remote())
        self._workers_seen_at = time.monotonic()
        self._execution = Execution(graph(plan, pool, job, self._coordinator))

    def run(self) -> None:
        """Returns when all shards are made; raises why they are not."""
        started = time.monotonic()
        try:
            while (finished := self._execution.take(POLL_SECONDS)) is not None:
                for stats in finished:
                    self._report.add(stats)
                    self._report.made += stats.images
                self._look_around()
            self._look_around()
        except RunError:
            self._look_around()  # the worker's own word says more than what came through Ray
            raise
        finally:
            self._execution.stop()
            self._report.seconds = time.monotonic() - started
            self._report.totals = self._snapshot.totals
            self._report.engines = self._snapshot.engines

    def _look_around(self) -> None:
        self._snapshot = snapshot = ray.get(self._coordinator.snapshot.remote())
        if self._progress is not None:
            self._progress.update(snapshot)
        self._execution.avoid(snapshot.avoided_nodes)
        if snapshot.hopeless is not None:
            raise RunError(f"no worker can start: {snapshot.hopeless}")
        if snapshot.broken is not None:
            raise RunError(f"the run broke: {snapshot.broken}")
        now = time.monotonic()
        if snapshot.workers:
            self._workers_seen_at = now
        waited = now - self._workers_seen_at
        if waited > self._start_timeout:
            raise RunError(f"no worker for {waited:.0f} seconds (--start-timeout): {self._shortage()}")
        if waited > min(WORTH_SAYING_SECONDS, self._start_timeout / 2) and self._progress is not None:
            self._progress.waiting(waited, self._shortage)

    def _shortage(self) -> str:
        """What the pool lacks, in numbers."""
        capacity = dataclasses.replace(self._capacity, nodes=live_nodes())
        free = " and ".join(f"{amount:g} {name}" for name, amount in free_resources().items())
        return f"{capacity.compared_with(self._pool.ask)}; {free} are free now"
