"""Finds the finished shards of a plan by the content of their markers."""

from __future__ import annotations

import dataclasses

from sdbatch.errors import StorageError
from sdbatch.output.markers import DamagedMarker, ShardStats, read_markers
from sdbatch.plan.planning import Plan
from sdbatch.prompts.shards import Selection

__all__ = ["without_unfinished"]


def without_unfinished(plan: Plan) -> tuple[Plan, dict[int, ShardStats]]:
    """The plan with shards without a valid marker added to those to do, and the valid markers.

    Markers of other runs, damaged ones and copies of another shard's are ignored: their shards are
    made again. The plan's `notices` name the damaged ones. Reads each marker of the plan's part.

    Raises:
        StorageError: the store cannot be read.
    """
    finished: dict[int, ShardStats] = {}
    damaged: list[str] = []
    for shard, stats in read_markers(plan.out, plan.todo.finished):
        if isinstance(stats, DamagedMarker):
            damaged.append(str(stats))
        elif isinstance(stats, StorageError):
            raise stats
        elif stats.run == plan.record.id:
            finished[shard] = stats
    todo = Selection(plan.shards, finished.keys(), plan.settings.part)
    return dataclasses.replace(plan, todo=todo, notices=(*plan.notices, *damaged)), finished
