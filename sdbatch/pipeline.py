"""The Ray Data graph: shards as rows, a pool of workers that make and write them, a stream of reports back."""

from __future__ import annotations

import contextlib
import dataclasses
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import Any, Protocol

import pyarrow as pa
import ray
from ray.data import ActorPoolStrategy, Dataset, Datasource, ReadTask
from ray.data.block import BlockMetadata
from ray.exceptions import RayError, UserCodeException

from sdbatch.cluster import PoolSize, connected, has_gpus, pool_size
from sdbatch.coordinator import Coordinator, Snapshot
from sdbatch.engine_config import resolve_engine
from sdbatch.errors import RunError, SdbatchError
from sdbatch.output import ModelLabel, ShardStats, marker_name
from sdbatch.output.removal import remove_output
from sdbatch.plan import Plan, make_plan
from sdbatch.prompts import Columns, InputFile, read_rows
from sdbatch.record import RunRecord
from sdbatch.report import RunReport
from sdbatch.settings import RunSettings
from sdbatch.shards import ReadGroup, group_reads, select
from sdbatch.worker import Job, ShardWorker, pack

__all__ = ["Progress", "generate"]

SHARDS_AT_ONCE = 2
POLL_SECONDS = 0.5
WAIT_FOR_WORKERS_SECONDS = 1800


class Progress(Protocol):
    """Who wants to know how a run goes."""

    def begin(self, plan: Plan, engine: Mapping[str, Any], pool: PoolSize) -> None: ...
    def update(self, snapshot: Snapshot) -> None: ...


def generate(prompts: str, out: str, *, progress: Progress | None = None, **options: Any) -> RunReport:
    """Make the images of a prompt table; the command line's `sdbatch generate`.

    Args:
        prompts: a Parquet file, a folder or a glob of them, local or any fsspec URL.
        out: the folder or URL to fill; what it already holds is kept, and only what is missing is made.
        progress: told how far the run is, about twice a second.
        options: the fields of `RunSettings`.

    Raises:
        UsageError: bad usage or bad input, before any model is loaded.
        RunError: the run itself broke; running it again resumes.
    """
    settings = RunSettings.from_options(options)
    plan = make_plan(prompts, out, settings)
    plan.out.probe()
    if settings.overwrite:
        remove_output(plan.out)
    report = RunReport(plan.out.url)
    record = plan.record
    if plan.todo:
        with connected(settings.address):
            record = _run(plan, settings, report, progress)
    todo = {shard.number for shard in plan.todo}
    earlier = [marker_name(shard.number) for shard in select(plan.shards, todo, settings.part)]
    for name, content in zip(earlier, plan.out.read_many(earlier), strict=True):
        report.add(ShardStats.from_json(content, name))
    dataclasses.replace(record, report=report.to_json()).save(plan.out)
    return report


def _run(plan: Plan, settings: RunSettings, report: RunReport, progress: Progress | None) -> RunRecord:
    """Make the shards that are to do; returns the record with the engines' set-up in it."""
    engine = resolve_engine(settings, plan.record.engine, has_gpus=has_gpus())
    pool = pool_size(settings, engine["device"], len(plan.todo))
    record = dataclasses.replace(plan.record, engine=engine)
    record.save(plan.out)
    if progress is not None:
        progress.begin(plan, engine, pool)
    coordinator = Coordinator.remote()
    job = Job(
        out=plan.out,
        settings=settings,
        columns=plan.columns,
        model=ModelLabel(plan.model.name, record.model["hash"], plan.model.height, plan.model.width),
        model_folder=str(plan.model.folder),
        engine=engine,
        threads=max(1, int(pool.cpus)),
    )
    started = time.monotonic()
    with _watching(coordinator, progress):
        for stats in _reports(_graph(plan, settings, pool, job, coordinator), coordinator):
            report.add(stats)
            report.made += stats.images
    report.seconds = time.monotonic() - started
    return record


def _graph(plan: Plan, settings: RunSettings, pool: PoolSize, job: Job, coordinator: Any) -> Dataset:
    """Datasource → worker pool. What each setting here prevents is measured in docs/how-it-works.md."""
    source = ShardSource(plan.files, plan.columns, group_reads(plan.files, plan.todo), settings.storage_options)
    shards = ray.data.read_datasource(
        source,
        override_num_blocks=len(source.groups),
        # A read task that wanted a CPU would wait for ever behind a pool as wide as the machine.
        num_cpus=0,
    )
    context = shards.context
    # One byte: blocks are cut at every row, and a block is what Ray Data hands to a worker and retries.
    context.target_max_block_size = 1
    context.execution_no_progress_timeout_s = -1
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    if pool.fixed:
        context.wait_for_min_actors_s = WAIT_FOR_WORKERS_SECONDS
    return shards.map_batches(
        ShardWorker,
        fn_constructor_args=(job, coordinator),
        batch_size=1,
        compute=ActorPoolStrategy(
            min_size=pool.least,
            max_size=pool.most,
            # Queued shards never move to another worker, so a fixed pool queues none; a pool that may grow
            # needs twice the concurrency in flight, or Ray Data sees no reason to.
            max_tasks_in_flight_per_actor=SHARDS_AT_ONCE if pool.fixed else 2 * SHARDS_AT_ONCE,
            max_concurrent_calls_per_actor=SHARDS_AT_ONCE,
            enable_true_multi_threading=True,
        ),
        num_cpus=pool.cpus,
        num_gpus=pool.gpus or None,
    )


class ShardSource(Datasource):
    """A Ray Data source whose rows are shards (see `worker.pack`)."""

    def __init__(
        self,
        files: Sequence[InputFile],
        columns: Columns,
        groups: Sequence[ReadGroup],
        options: Mapping[str, Any],
    ) -> None:
        super().__init__()
        self.groups = groups
        self._files = files
        self._columns = columns
        self._options = options

    def estimate_inmemory_data_size(self) -> int | None:
        return None

    def get_read_tasks(
        self, parallelism: int, per_task_row_limit: int | None = None, data_context: Any = None
    ) -> list[ReadTask]:
        return [
            ReadTask(
                partial(_read_group, self._files[group.file], self._columns, group, self._options),
                BlockMetadata(num_rows=len(group.shards), size_bytes=None, exec_stats=None, input_files=None),
            )
            for group in self.groups
        ]


def _read_group(file: InputFile, columns: Columns, group: ReadGroup, options: Mapping[str, Any]) -> Iterator[pa.Table]:
    ranges = [(shard.first_row, shard.rows) for shard in group.shards]
    for shard, table in zip(group.shards, read_rows(file, columns, ranges, options), strict=True):
        yield pack(shard, table)


def _reports(dataset: Dataset, coordinator: Any) -> Iterator[ShardStats]:
    """Run the graph; yields each shard's statistics as it finishes.

    Raises:
        RunError: a worker or a read task gave up; says why.
    """
    try:
        for batch in dataset.iter_batches(batch_size=None, batch_format="pyarrow"):
            for number, content in zip(batch["shard"].to_pylist(), batch["stats"].to_pylist(), strict=True):
                yield ShardStats.from_json(content, marker_name(number))
    except (RayError, UserCodeException) as exc:
        problems = ray.get(coordinator.snapshot.remote()).problems
        raise _told(exc, problems) from exc


def _told(error: BaseException, problems: list[str]) -> RunError:
    """What people should read: our own error if one is in the chain of causes, else the reason a worker gave."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, SdbatchError):
            return RunError(f"the run broke: {cause}")
        cause = getattr(cause, "cause", None) or cause.__cause__
    reason = problems[0] if problems else str(error).strip().splitlines()[-1]
    return RunError(f"the run broke: {reason}")


@contextlib.contextmanager
def _watching(coordinator: Any, progress: Progress | None) -> Iterator[None]:
    """Keep `progress` up to date from a thread of its own while the block runs."""
    stop = threading.Event()

    def watch() -> None:
        while not stop.wait(POLL_SECONDS):
            progress.update(ray.get(coordinator.snapshot.remote()))

    if progress is None:
        yield
        return
    thread = threading.Thread(target=watch, name="progress", daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()
        progress.update(ray.get(coordinator.snapshot.remote()))
