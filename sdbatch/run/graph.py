"""The Ray Data graph: a source of shards, and a pool of workers that make and write them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import pyarrow as pa
import ray
from ray import cloudpickle
from ray.data import ActorPoolStrategy, Dataset, Datasource, ReadTask
from ray.data.block import BlockMetadata

from sdbatch.plan.capacity import SHARDS_AT_ONCE, PoolSize
from sdbatch.plan.planning import Plan
from sdbatch.prompts import Columns, InputFile, read_table
from sdbatch.prompts.shards import ReadGroup, group_reads
from sdbatch.run.job import Job
from sdbatch.run.packed_shards import pack
from sdbatch.run.starting import shard_worker
from sdbatch.run.worker import Worker

__all__ = ["graph"]

# One read task reads tens of shards per second, and a worker takes seconds to minutes for each.
READS_AT_ONCE, WORKERS_PER_READ, MAX_READS_AT_ONCE = 2, 16, 16


def graph(plan: Plan, pool: PoolSize, job: Job, coordinator: Any) -> Dataset:
    """Build the graph, data source → worker pool. docs/how-it-works.md says what each setting prevents."""
    groups = list(group_reads(plan.files, plan.shards, plan.todo))
    source = ShardSource(plan.files, plan.columns.without_held(), groups, job.settings.storage_options)
    shards = ray.data.read_datasource(
        source,
        override_num_blocks=len(source.groups),
        # A read task that needs a CPU would wait forever behind a pool that uses all of them.
        num_cpus=0,
        # Ray Data starts as many as it can at once, each in its own process.
        concurrency=min(READS_AT_ONCE + pool.maximum // WORKERS_PER_READ, MAX_READS_AT_ONCE, len(groups)),
    )
    context = shards.context
    # One byte: every row becomes its own block, and a block is what Ray Data passes to a worker and retries.
    context.target_max_block_size = 1
    context.execution_no_progress_timeout_s = -1
    # Every second, for every shard in progress, Ray Data would walk all memory maps of a process that holds a model.
    context.memory_usage_poll_interval_s = None
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    # The coordinator (`Startup`) decides whether failed starts end the run; the first failure must not.
    context.max_consecutive_actor_init_deaths = -1
    # With few shards, the first worker must leave some to the others.
    at_once = SHARDS_AT_ONCE if len(plan.todo) >= SHARDS_AT_ONCE * pool.maximum else 1
    return shards.map_batches(
        shard_worker(),
        fn_constructor_args=(cloudpickle.dumps(partial(Worker, job)), coordinator),
        batch_size=1,
        compute=ActorPoolStrategy(
            # All workers that the backlog can use are requested at once, so that an autoscaler sees them all and
            # starts the nodes together; the first one starts working at once. A pool that Ray Data grows waits for
            # finished shards first. At the tail, idle workers are released either way.
            size=pool.maximum,
            # Queued shards never move to another worker, so none are queued.
            max_tasks_in_flight_per_actor=at_once,
            max_concurrent_calls_per_actor=at_once,
            enable_true_multi_threading=True,
        ),
        num_cpus=pool.worker.cpus,
        num_gpus=pool.worker.gpus or None,
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
                partial(_read_group, self._files_of(group), self._columns, group, self._options),
                BlockMetadata(num_rows=len(group.shards), size_bytes=None, exec_stats=None, input_files=None),
            )
            for group in self.groups
        ]

    def _files_of(self, group: ReadGroup) -> dict[int, InputFile]:
        return {piece.file: self._files[piece.file] for pieces in group.pieces for piece in pieces}


def _read_group(
    files: Mapping[int, InputFile], columns: Columns, group: ReadGroup, options: Mapping[str, Any]
) -> Iterator[pa.Table]:
    tables = read_table(files, columns, group.pieces, options)
    for shard, pieces, table in zip(group.shards, group.pieces, tables, strict=True):
        yield pack(shard, pieces, table)
