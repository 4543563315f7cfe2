"""The progress of an output, from run.json, one listing, and the markers."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from sdbatch.errors import StorageError
from sdbatch.output.keys import finished_shards
from sdbatch.output.manifest_files import read_manifest
from sdbatch.output.markers import read_markers
from sdbatch.storage.store import Store

__all__ = ["OutStatus", "status"]


@dataclass(frozen=True)
class OutStatus:
    """What is done, what is missing, and what failed.

    Attributes:
        url: the output folder.
        shards, images: the total numbers.
        done: number of finished shards.
        missing: number of unfinished shards.
        damaged: errors of markers that cannot be read; their shards are neither done nor missing.
        ok, failed: images of the finished shards.
        reasons: number of failed images by reason, most frequent first.
    """

    url: str
    shards: int
    images: int
    done: int
    missing: int
    damaged: tuple[str, ...]
    ok: int
    failed: int
    reasons: Mapping[str, int]

    @property
    def complete(self) -> bool:
        return not self.missing and not self.damaged


def status(out: str, options: Mapping[str, Any] | None = None) -> OutStatus:
    """The status of an output folder. Reads the markers, many at a time, and no pictures.

    Raises:
        UsageError: run.json is missing or damaged.
        StorageError: the store cannot be read.
    """
    store = Store(out, options)
    expected = read_manifest(store).expected()
    shards = len(expected.cut)
    finished = sorted(shard for shard in finished_shards(store.entries()) if shard < shards)
    reasons: Counter[str] = Counter()
    ok, failed = 0, 0
    done, damaged = 0, []
    for _, stats in read_markers(store, finished):
        if isinstance(stats, StorageError):
            damaged.append(str(stats))
            continue
        if stats.run != expected.run:
            continue  # belongs to the replaced output
        done += 1
        ok, failed = ok + stats.ok, failed + stats.failed
        reasons.update(stats.reasons)
    return OutStatus(
        url=store.url,
        shards=shards,
        images=expected.images,
        done=done,
        missing=shards - done - len(damaged),
        damaged=tuple(damaged),
        ok=ok,
        failed=failed,
        reasons=dict(reasons.most_common()),
    )
