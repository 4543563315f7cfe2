"""Whether an output is what it says: every image there, whole, and true to its metadata, and nothing else."""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from typing import Any

from sdbatch.output.check import Expected, ShardCheck, check_shard
from sdbatch.output.keys import finished_shards, marker_name
from sdbatch.record import RunRecord
from sdbatch.storage import Store

__all__ = ["VerifyReport", "verify"]

WORKERS = 8
SHARD_FILE = re.compile(r"(\d{5,})(_stats\.json|\.parquet|\.tar|/)")


@dataclass(frozen=True)
class VerifyReport:
    """What verification found.

    Attributes:
        url: the output folder.
        shards: finished shards that were looked at.
        images: images that were looked at.
        bad: shards that are not as they should be, and what is wrong with each.
        unfinished: how many shards have no marker; they are incomplete, not bad.
        surplus: entries of the folder that belong to no shard of the run, but that its readers take in.
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
        """Whether everything that was looked at is as it should be."""
        return not self.bad and not self.surplus


def verify(
    out: str,
    options: Mapping[str, Any] | None = None,
    sample: int | None = None,
    repair: bool = False,
    workers: int = WORKERS,
    progress: Callable[[int, int], None] | None = None,
) -> VerifyReport:
    """Checks the finished shards of an output against their metadata, and their metadata against run.json.

    Args:
        sample: look only at so many shards, chosen at random.
        repair: remove the markers of bad shards, and the files too many in them, so that the next run makes
            these shards again.
        workers: shards looked at at a time.
        progress: called with the number of shards looked at so far, and of all.

    Raises:
        UsageError: no run.json there, or a damaged one.
        StorageError: the store refuses.
    """
    store = Store(out, options)
    expected = RunRecord.read(store).expected()
    entries = store.entries()
    finished = sorted(finished_shards(entries))
    known = [shard for shard in finished if shard < len(expected.shard_rows)]
    chosen = known if sample is None else sorted(random.sample(known, min(sample, len(known))))
    checks: list[ShardCheck] = []
    for check in _check_all(store, expected, chosen, workers):
        checks.append(check)
        if progress:
            progress(len(checks), len(chosen))
    bad = sorted((check for check in checks if check.problems), key=lambda check: check.shard)
    for check in bad if repair else ():
        # The marker goes first: without it, whatever else happens, the shard is made again.
        store.remove(marker_name(check.shard))
        for name in check.surplus:
            store.remove(name)
    return VerifyReport(
        url=store.url,
        shards=len(checks),
        images=sum(check.images for check in checks),
        bad={check.shard: check.problems for check in bad},
        unfinished=len(expected.shard_rows) - len(known),
        surplus=tuple(sorted(_strangers(entries, len(expected.shard_rows)))),
        repaired=tuple(check.shard for check in bad) if repair else (),
    )


def _check_all(store: Store, expected: Expected, shards: Iterable[int], workers: int) -> Iterator[ShardCheck]:
    with ThreadPoolExecutor(workers) as pool:
        waiting = iter(shards)
        running: set[Future[ShardCheck]] = set()
        while True:
            while len(running) < 2 * workers and (shard := next(waiting, None)) is not None:
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
        if match or entry.endswith((".parquet", ".tar")):  # what OUT/*.parquet would bring in
            yield entry
