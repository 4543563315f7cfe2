"""Proving where a dataset came from: images made again from their metadata rows alone, bytes compared."""

from __future__ import annotations

import hashlib
import random
from bisect import bisect_right
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

from sdbatch.diffusion import Request, inspect_model, model_hash
from sdbatch.errors import UsageError
from sdbatch.output.dataset import open_dataset
from sdbatch.output.encoding import encode
from sdbatch.output.json_rows import python_rows
from sdbatch.output.keys import marker_name
from sdbatch.output.stats import ShardStats
from sdbatch.output.stored import open_shard
from sdbatch.record import RunRecord
from sdbatch.storage import Store

__all__ = ["RemakeReport", "remake"]

# What a request is made of: columns of its row, and settings that are the same for the whole run.
RUN_SETTINGS = ("guidance_rescale", "guidance_start", "guidance_stop")
REQUEST_COLUMNS = ("prompt", "negative_prompt", "seed", "sampler", "steps", "guidance_scale", "height", "width")


@dataclass(frozen=True)
class RemakeReport:
    """What came of making images again.

    Attributes:
        url: the output folder.
        made: images that were made again.
        different: keys of those whose file came out with other bytes.
    """

    url: str
    made: int
    different: tuple[str, ...]

    @property
    def ok(self) -> bool:
        return not self.different


def remake(out: str, count: int, *, model: str | None = None, options: Mapping[str, Any] | None = None) -> RemakeReport:
    """Make `count` images of an output again, chosen at random, each from its metadata row, in whatever company.

    Args:
        model: where the model is now; by default where it was when the output was begun.

    Raises:
        UsageError: no output there, or another model than the one that made it.
    """
    store = open_dataset(out, options).store
    record = RunRecord.read(store)
    info = inspect_model(model or record.model["source"])
    if model_hash(info) != record.model["hash"]:
        raise UsageError(f"{store.url} was made by another model than {info.folder}: the hashes of the weights differ")
    rows = list(_chosen_rows(store, count))
    from sdbatch.diffusion import Engine  # torch loads only now that everything else is in order

    engine = Engine(info.folder, **record.engine)
    different = []
    for image in engine.generate([_request(row, record) for row in rows]):
        row = rows[image.index]
        if image.pixels is None or _digest(image.pixels, row, record) != row["sha256"]:
            different.append(row["key"])
    return RemakeReport(store.url, len(rows), tuple(sorted(different)))


def _request(row: Mapping[str, Any], record: RunRecord) -> Request:
    own = {name: row[name] for name in REQUEST_COLUMNS}
    of_the_run = {name: record.settings[name] for name in RUN_SETTINGS}
    return Request(**own, **of_the_run)


def _digest(pixels: Any, row: Mapping[str, Any], record: RunRecord) -> str:
    settings = record.settings
    labelled = dict(row) | {"model_hash": record.model["hash"]}
    return hashlib.sha256(encode(pixels, settings["image_format"], settings["image_quality"], labelled)).hexdigest()


def _chosen_rows(store: Store, count: int) -> Iterator[dict[str, Any]]:
    """Metadata rows of `count` images that are ok, every image equally likely."""
    shards = open_dataset(store.url, store.options).shards
    names = [marker_name(shard) for shard in shards]
    stats = [ShardStats.from_json(data, name) for name, data in zip(names, store.read_many(names), strict=True)]
    ends = list(accumulate(s.ok for s in stats))
    total = ends[-1] if ends else 0
    places: dict[int, list[int]] = defaultdict(list)
    for image in random.sample(range(total), min(count, total)):
        at = bisect_right(ends, image)
        places[at].append(image - (ends[at] - stats[at].ok))
    for at in sorted(places):
        yield from _ok_rows(store, stats[at].shard, places[at])


def _ok_rows(store: Store, shard: int, places: Sequence[int]) -> Iterator[dict[str, Any]]:
    ok = [row for row in python_rows(open_shard(store, shard).metadata) if row["status"] == "ok"]
    return (ok[place] for place in places)
