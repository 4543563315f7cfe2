"""A run, from a prompt table to a dataset: plan, start the graph, monitor it, report."""

from __future__ import annotations

import dataclasses
import os
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any, Protocol, Unpack, cast

import ray
from ray.exceptions import GetTimeoutError, RayError

from sdbatch.engine_settings import EngineSettings, resolve_engine
from sdbatch.errors import RunError, UsageError
from sdbatch.output import ModelLabel
from sdbatch.output.manifest import RunRecord
from sdbatch.output.manifest_files import write_report
from sdbatch.plan.capacity import Capacity, PoolSize, pool_size
from sdbatch.plan.finished import without_unfinished
from sdbatch.plan.kept_tables import put
from sdbatch.plan.planning import Plan, make_plan, settings_source
from sdbatch.prompts.lora_cells import names_loras
from sdbatch.prompts.picture_cells import folder_of, picture_names
from sdbatch.prompts.python_tables import GIVEN, GivenTable, PythonTable, written
from sdbatch.resolution import task_name
from sdbatch.run.cluster import connected, free_resources, live_nodes, survey
from sdbatch.run.coordinator import Snapshot, start_coordinator
from sdbatch.run.execution import Execution, error_to_show
from sdbatch.run.faults.same_packages import declared
from sdbatch.run.graph import graph
from sdbatch.run.job import Job, load_engine, measure_lanes, packed_functions
from sdbatch.run.opening import Overtaken, open_out
from sdbatch.run.report import RunReport
from sdbatch.run_options import RunOptions
from sdbatch.scoring.registry import own_functions
from sdbatch.settings import RunSettings
from sdbatch.storage.claims import Busy, Claims

__all__ = ["Progress", "generate"]

POLL_SECONDS = 0.5
# The first worker waits until OUT is ready for it.
OPENING_POLL_SECONDS = 0.1
WORTH_SAYING_SECONDS = 20.0
MAX_PLANS = 5


class Progress(Protocol):
    """Receives the progress of a run."""

    def begin(self, plan: Plan, engine: EngineSettings, pool: PoolSize) -> None: ...
    def update(self, snapshot: Snapshot) -> None: ...
    def waiting(self, seconds: float, reason: Callable[[], str]) -> None: ...


def generate(
    prompts: str | os.PathLike[str] | PythonTable,
    out: str,
    *,
    progress: Progress | None = None,
    make_engine: Callable[[Job], Any] = load_engine,
    **options: Unpack[RunOptions],
) -> RunReport:
    """Make the images of a prompt table, like the command `sdbatch generate`.

    Args:
        prompts: a table (Parquet, CSV, TSV, JSON, JSON Lines, Excel, Arrow or text), a folder or glob of tables, local
            or any fsspec URL; or one prompt. Or the table itself: a pandas or polars frame, an Arrow table, a Hugging
            Face or Ray `Dataset`, a list of prompts, or of rows as dicts; OUT keeps it as a Parquet file in
            `__prompts`, and another call with equal rows continues the output.
        out: the folder or URL to fill; existing images are kept, and only missing ones are made.
        progress: receives the progress, about twice a second.
        make_engine: makes a worker's engine, to replace the real one; see `sdbatch.run.job.Job`.
        options: the command line's, with underscores; `sdbatch.run_options` lists them with their types.

    Raises:
        TypeError: an unknown keyword; the message names the closest known one. It is also a `UsageError`.
        UsageError: bad usage or bad input, before any model is loaded.
        RunError: the run itself broke; running it again resumes.
    """
    settings = _with_absolute_model(RunSettings.from_options(options))
    if isinstance(prompts, str | os.PathLike):
        return _planned(os.fspath(prompts), out, settings, progress, make_engine)
    if settings.prompt_per_file:
        raise UsageError("prompt_per_file: prompts is a table; it goes with a folder of text files")
    with written(prompts) as given:
        try:
            return _planned(given, out, settings, progress, make_engine)
        except UsageError as exc:
            raise type(exc)(str(exc).replace(given.path, GIVEN)) from exc


def _planned(
    prompts: str | GivenTable,
    out: str,
    settings: RunSettings,
    progress: Progress | None,
    make_engine: Callable[[Job], Any],
) -> RunReport:
    for _ in range(MAX_PLANS):
        plan = make_plan(prompts, out, settings)
        plan.out.probe()
        if plan.given is not None:
            plan = dataclasses.replace(plan, files=[put(plan.given, file, plan.out) for file in plan.files])
        try:
            return _made(plan, plan.settings, progress, make_engine)
        except Overtaken:
            # The first run has decided what OUT is; this run continues it, or is refused.
            settings = dataclasses.replace(settings, overwrite=False)
    raise RunError(f"{plan.out.url}: other runs changed it {MAX_PLANS} times while this one started; start it again")


def _made(plan: Plan, settings: RunSettings, progress: Progress | None, make_engine: Callable[[Job], Any]) -> RunReport:
    """Make the shards to do and report. Raises `Overtaken` if another run changed OUT before this one's first shard."""
    report = RunReport(plan.out.url, price_per_hour=settings.price_per_hour)
    plan, finished = without_unfinished(plan)
    if plan.todo:
        with connected(settings.address):
            _run(plan, settings, report, progress, make_engine)
    else:
        with suppress(Busy):  # the other run will have made OUT ready
            open_out(plan, None)
    for stats in finished.values():
        report.add(stats)
    write_report(plan.out, report.to_json())
    return report


def _with_absolute_model(settings: RunSettings) -> RunSettings:
    """The settings with absolute paths of the model and what belongs to it: workers run in their own folders."""
    return dataclasses.replace(
        settings,
        model=settings.model if settings.model == "tiny" else _absolute(settings.model),
        tokenizer=_absolute(settings.tokenizer),
        vae=_absolute(settings.vae),
        text_encoder={part: _absolute(path) for part, path in settings.text_encoder.items()},
        embedding={token: _absolute(path) for token, path in settings.embedding.items()},
    )


def _absolute(place: Any) -> Any:
    """The absolute path of what exists on this machine; other places, and None, unchanged."""
    return os.path.abspath(place) if place is not None and os.path.exists(place) else place


def _run(
    plan: Plan,
    settings: RunSettings,
    report: RunReport,
    progress: Progress | None,
    make_engine: Callable[[Job], Any],
) -> None:
    """Make the shards to do."""
    capacity = survey()
    engine = resolve_engine(settings, plan.record.engine, plan.model, has_gpus=capacity.has_gpus)
    if engine.compile_sizes and engine.compile == "off":
        raise UsageError(f"--compile-sizes: nothing is compiled on {engine.device}; add --compile on, or leave it out")
    if settings.cpus_per_actor is None and engine.threads is not None:
        settings = dataclasses.replace(settings, cpus_per_actor=float(engine.threads))
    pool = pool_size(settings, engine.device, len(plan.todo), capacity)
    if progress is not None:
        progress.begin(plan, engine, pool)
    job = Job(
        out=plan.out,
        settings=settings,
        columns=plan.columns,
        model=ModelLabel(plan.model.name, plan.record.model["hash"], plan.model.height, plan.model.width),
        source=settings_source(settings).pinned(plan.record.model),
        recorded_model=plan.record.model,
        engine=engine,
        make_engine=make_engine,
        scorer_weights=plan.record.settings["scorer_weights"],
        declared=declared(task_name(settings), plan.model.family),
        folders=tuple(folder_of(file.path) for file in plan.files) if _names_files(plan) else (),
        networks=tuple(plan.record.networks),
        files=tuple(plan.files) if plan.columns.held else (),
        scorer_functions=packed_functions(own_functions(settings.scorer)),
    )
    opened = None
    if engine.lanes is None:
        job, worker = _with_measured_lanes(job, pool)
        if plan.replaced is None:
            # If several runs have measured lanes for one new OUT, the first to write decides.
            with suppress(Busy):
                opened = open_out(plan, job.engine, worker)
    _Attended(plan, pool, capacity, job, report, progress, opened).run()


def _names_files(plan: Plan) -> bool:
    """Whether rows may name further files."""
    return bool(picture_names(plan.columns.fields)) or names_loras(plan.columns, plan.settings)


def _with_measured_lanes(job: Job, pool: PoolSize) -> tuple[Job, dict[str, Any]]:
    """The job with a number of lanes measured by one worker for all: pictures must not depend on the node.

    Returns the job and the description of that worker's engine.
    """
    task = measure_lanes.options(num_cpus=pool.worker.cpus, num_gpus=pool.worker.gpus).remote(job)
    try:
        lanes, worker = ray.get(task, timeout=job.settings.start_timeout)
    except GetTimeoutError:
        raise RunError(
            f"no worker to measure lanes started within {job.settings.start_timeout:.0f} seconds (--start-timeout)"
        ) from None
    except RayError as exc:
        raise error_to_show(exc) from exc
    finally:
        ray.cancel(task, force=True)  # without effect on one that has ended
    return dataclasses.replace(job, engine=dataclasses.replace(job.engine, lanes=lanes)), worker


class _Attended:
    """A running graph that the driver monitors."""

    def __init__(
        self,
        plan: Plan,
        pool: PoolSize,
        capacity: Capacity,
        job: Job,
        report: RunReport,
        progress: Progress | None,
        opened: RunRecord | None,
    ) -> None:
        self._plan = plan
        self._engine = job.engine
        self._opened = opened
        self._claims = Claims(plan.out)
        self._pool = pool
        self._capacity = capacity
        self._report = report
        self._progress = progress
        self._start_timeout = job.settings.start_timeout
        self._coordinator = start_coordinator(plan.record.started_with)
        # The coordinator's process starts while Ray Data starts the workers.
        self._snapshot = Snapshot()
        self._workers_seen_at = time.monotonic()
        if opened is not None:
            self._coordinator.open.remote(opened.id)
        self._execution = Execution(graph(plan, pool, job, self._coordinator))

    def run(self) -> None:
        """Run until all shards are made. Raises `RunError` if that fails."""
        started = time.monotonic()
        try:
            while (finished := self._execution.take(self._poll_seconds())) is not None:
                for stats, is_made in finished:
                    self._report.add(stats)
                    self._report.made += stats.images if is_made else 0
                self._look_around()
            self._look_around()
        except RunError:
            self._look_around()  # the worker's own message is better than the one from Ray
            raise
        finally:
            self._execution.stop()
            ray.kill(self._coordinator)  # which ends the workers that are left
            self._report.seconds = time.monotonic() - started
            self._report.totals = self._snapshot.totals
            self._report.engines = self._snapshot.engines
            self._report.findings = self._snapshot.findings

    def _poll_seconds(self) -> float:
        return OPENING_POLL_SECONDS if self._opened is None else POLL_SECONDS

    def _look_around(self) -> None:
        try:
            self._snapshot = snapshot = cast(Snapshot, ray.get(self._coordinator.snapshot.remote()))
        except RayError as exc:
            raise RunError("the process that coordinates the workers ended; start the run again to continue") from exc
        if self._progress is not None:
            self._progress.update(snapshot)
        self._execution.avoid(snapshot.avoided_nodes)
        if snapshot.hopeless is not None:
            raise RunError(f"no worker can start: {snapshot.hopeless}")
        if snapshot.broken is not None:
            raise RunError(f"the run broke: {snapshot.broken}")
        if self._opened is None and snapshot.totals["started_workers"]:
            self._open(snapshot.engines[0])
        now = time.monotonic()
        if snapshot.workers:
            self._workers_seen_at = now
        waited = now - self._workers_seen_at
        if waited > self._start_timeout:
            raise RunError(f"no worker for {waited:.0f} seconds (--start-timeout): {self._shortage()}")
        if waited > min(WORTH_SAYING_SECONDS, self._start_timeout / 2) and self._progress is not None:
            self._progress.waiting(waited, self._shortage)

    def _open(self, worker: Mapping[str, Any]) -> None:
        """Prepare OUT, now that an engine has started; nothing old is removed before that."""
        try:
            self._opened = open_out(self._plan, self._engine, worker, self._claims)
        except Busy:
            self._coordinator.problem.remote("another run is removing the replaced output; this run waits for it")
        else:
            self._coordinator.open.remote(self._opened.id)

    def _shortage(self) -> str:
        """The missing resources, as a message."""
        capacity = dataclasses.replace(self._capacity, nodes=live_nodes())
        free = " and ".join(f"{amount:g} {name}" for name, amount in free_resources().items())
        return f"{capacity.compared_with(self._pool.worker)}; {free} are free now"
