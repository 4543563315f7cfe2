"""Verifies an output: every image exists, is intact and matches its metadata, and there are no other files."""

from __future__ import annotations

import random
import re
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from typing import Any

from sdbatch.bounds import Whole
from sdbatch.output.check import Expected, ShardCheck, check_shard
from sdbatch.output.keys import finished_shards, marker_name
from sdbatch.output.manifest_files import read_manifest
from sdbatch.storage.held_writes import held
from sdbatch.storage.store import Store

__all__ = ["VerifyReport", "verify"]

WORKERS = 8
SAMPLE = Whole(1, 1_000_000_000)
SHARD_FILE = re.compile(r"(\d{5,})(_stats\.json|\.parquet|\.tar|/)")


@dataclass(frozen=True)
class VerifyReport:
    """The result of a verification.

    Attributes:
        url: the output folder.
        shards: number of finished shards that were checked.
        images: number of images that were checked.
        bad: the problems of each bad shard.
        unfinished: number of shards without a marker; they are incomplete, not bad.
        surplus: entries of the folder that belong to no shard of the run, but that readers would include.
        repaired: shards whose markers were removed.
    """

    url: str
    shards: int
    images: int
    bad: Mapping[int, tuple[str, ...]]
    unfinished: int
    surplus: tuple[str, ...]
    repaired: tuple[int, ...] = field(default=())

    @property
    def ok(self) -> bool:
        """Whether no problem was found."""
        return not self.bad and not self.surplus


def verify(
    out: str,
    options: Mapping[str, Any] | None = None,
    sample: int | None = None,
    repair: bool = False,
) -> VerifyReport:
    """Check the finished shards of an output against their metadata, and their metadata against run.json.

    Args:
        sample: check only this number of shards, chosen at random.
        repair: remove the markers of bad shards, and unexpected files in them, so that the next run makes
            these shards again.

    Raises:
        UsageError: run.json is missing or damaged, or `sample` is less than one.
        StorageError: the store cannot be read.
    """
    if sample is not None:
        sample = SAMPLE.check("sample", sample)
    store = Store(out, options)
    record = read_manifest(store)
    expected, footprint = record.expected(), record.footprint
    entries = store.entries()
    finished = sorted(finished_shards(entries))
    known = [shard for shard in finished if shard < len(expected.cut)]
    chosen = known if sample is None else sorted(random.sample(known, min(sample, len(known))))
    checks = list(_check_all(store, expected, chosen))
    bad = sorted((check for check in checks if check.problems), key=lambda check: check.shard)
    mended = held(store)
    for check in bad if repair else ():
        # The marker is removed first: without it the shard is made again in any case.
        mended.remove(marker_name(check.shard))
        for name in check.surplus:
            # A file that no run can have written is not ours.
            if footprint.has_in_folder(check.shard, name.rpartition("/")[2]):
                mended.remove(name)
    mended.commit()
    return VerifyReport(
        url=store.url,
        shards=len(checks),
        images=sum(check.images for check in checks),
        bad={check.shard: check.problems for check in bad},
        unfinished=len(expected.cut) - len(known),
        surplus=tuple(sorted(_strangers(entries, len(expected.cut)))),
        repaired=tuple(check.shard for check in bad) if repair else (),
    )


def _check_all(store: Store, expected: Expected, shards: Iterable[int]) -> Iterator[ShardCheck]:
    with ThreadPoolExecutor(WORKERS) as pool:
        waiting = iter(shards)
        running: set[Future[ShardCheck]] = set()
        while True:
            while len(running) < 2 * WORKERS and (shard := next(waiting, None)) is not None:
                running.add(pool.submit(check_shard, store, shard, expected))
            if not running:
                return
            finished, running = wait(running, return_when=FIRST_COMPLETED)
            for future in finished:
                yield future.result()


def _strangers(entries: Iterable[str], shards: int) -> Iterator[str]:
    for entry in entries:
        match = SHARD_FILE.fullmatch(entry)
        if match and int(match[1]) < shards and f"{int(match[1]):05d}" == match[1]:
            continue
        if match or entry.endswith((".parquet", ".tar")):  # would match OUT/*.parquet
            yield entry
