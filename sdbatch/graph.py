"""The Ray Data graph: shards as rows, and a pool of workers that make and write them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import pyarrow as pa
import ray
from ray.data import ActorPoolStrategy, Dataset, Datasource, ReadTask
from ray.data.block import BlockMetadata

from sdbatch.capacity import PoolSize
from sdbatch.plan import Plan
from sdbatch.prompts import Columns, InputFile, read_rows
from sdbatch.shards import ReadGroup, group_reads
from sdbatch.worker import Job, ShardWorker, pack

__all__ = ["graph"]

SHARDS_AT_ONCE = 2


def graph(plan: Plan, pool: PoolSize, job: Job, coordinator: Any) -> Dataset:
    """Datasource → worker pool. What each setting here prevents is measured in docs/how-it-works.md."""
    groups = group_reads(plan.files, plan.todo)
    source = ShardSource(plan.files, plan.columns, groups, job.settings.storage_options)
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
    # Every second for every shard under way, Ray Data would walk all memory maps of a process that holds a model.
    context.memory_usage_poll_interval_s = None
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    # Whether a failed start ends the run is the coordinator's to say (`Startup`), not the first failure's.
    context.max_consecutive_actor_init_deaths = -1
    # With few shards, a worker that is up first must leave some to the others.
    at_once = SHARDS_AT_ONCE if len(plan.todo) >= SHARDS_AT_ONCE * pool.most else 1
    return shards.map_batches(
        ShardWorker,
        fn_constructor_args=(job, coordinator),
        batch_size=1,
        compute=ActorPoolStrategy(
            # All workers that the backlog can use are asked for at once, so that an autoscaler sees them all and
            # brings nodes in one go; work begins on the first. A pool that Ray Data grows waits for finished
            # shards first. At the tail, workers that have nothing left are given back either way.
            size=pool.most,
            # Queued shards never move to another worker, so none are queued.
            max_tasks_in_flight_per_actor=at_once,
            max_concurrent_calls_per_actor=at_once,
            enable_true_multi_threading=True,
        ),
        num_cpus=pool.ask.cpus,
        num_gpus=pool.ask.gpus or None,
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
