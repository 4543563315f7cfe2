"""How far an output is: from run.json, one listing, and the markers."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from sdbatch.output.keys import finished_shards, marker_name
from sdbatch.output.stats import ShardStats
from sdbatch.record import RunRecord
from sdbatch.storage import Store

__all__ = ["OutStatus", "status"]


@dataclass(frozen=True)
class OutStatus:
    """What is done, what is missing, and what failed.

    Attributes:
        url: the output folder.
        shards, images: how many there will be.
        done: how many shards are finished.
        missing: numbers of the shards that are not.
        ok, failed: images of the finished shards.
        reasons: why images failed, and how many for each reason, most frequent first.
        seconds: that workers spent on the finished shards, all together.
    """

    url: str
    shards: int
    images: int
    done: int
    missing: tuple[int, ...]
    ok: int
    failed: int
    reasons: Mapping[str, int]
    seconds: float

    @property
    def complete(self) -> bool:
        return not self.missing


def status(out: str, options: Mapping[str, Any] | None = None) -> OutStatus:
    """The state of an output folder. Reads the markers, many at a time, and no picture.

    Raises:
        UsageError: no run.json there, or a damaged one.
        StorageError: a damaged marker, or a store that refuses.
    """
    store = Store(out, options)
    expected = RunRecord.read(store).expected()
    finished = sorted(finished_shards(store.entries()))
    names = [marker_name(shard) for shard in finished]
    reasons: Counter[str] = Counter()
    ok, failed, seconds = 0, 0, 0.0
    for name, data in zip(names, store.read_many(names), strict=True):
        stats = ShardStats.from_json(data, store.name(name))
        ok, failed, seconds = ok + stats.ok, failed + stats.failed, seconds + stats.seconds
        reasons.update(stats.reasons)
    shards = len(expected.shard_rows)
    return OutStatus(
        url=store.url,
        shards=shards,
        images=expected.images,
        done=len(finished),
        missing=tuple(sorted(set(range(shards)) - set(finished))),
        ok=ok,
        failed=failed,
        reasons=dict(reasons.most_common()),
        seconds=seconds,
    )
