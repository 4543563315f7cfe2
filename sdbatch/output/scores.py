"""Scores of an existing output: a table beside each shard; the shard itself does not change.

OUT/__scores__/NNNNN.parquet    `key` and one column per score, one row per image
"""

from __future__ import annotations

import io
import json
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from sdbatch.diffusion.request import COMMON, GeneratedImage, Request
from sdbatch.errors import StorageError, UsageError
from sdbatch.output.encoding import decoded
from sdbatch.output.json_rows import python_rows
from sdbatch.output.keys import shard_name
from sdbatch.output.manifest import RunRecord
from sdbatch.output.metadata import JUDGED
from sdbatch.output.stored import StoredShard
from sdbatch.scoring.judged import scored
from sdbatch.scoring.registry import Declaration
from sdbatch.scoring.scorer import Scorer
from sdbatch.storage.parquet import parquet_bytes
from sdbatch.storage.store import Store

__all__ = ["FOLDER", "ScoreReport", "ScoreTables", "request_of", "score_shards"]

FOLDER = "__scores__"  # readers of datasets ignore folders whose names begin with underscores
MADE_WITH = b"sdbatch"
PICTURES_AT_ONCE = 32


@dataclass
class ScoreReport:
    """The result of scoring.

    Attributes:
        shards, pictures: numbers of those scored now.
        skipped: shards that already had these scores.
        failures: how often a scorer had no score for a picture, by reason.
    """

    shards: int = 0
    pictures: int = 0
    skipped: int = 0
    failures: Counter[str] = field(default_factory=Counter)


class ScoreTables:
    """The scores beside an output's shards.

    Args:
        run: the identity of the output; tables of another one, which this one has replaced, are ignored.
    """

    def __init__(self, store: Store, run: str | None) -> None:
        self._store, self._run = store, run
        folder = Store(store.name(FOLDER), store.options)
        self._names = set(folder.entries()) if folder.is_folder() else set()
        self._usual: pa.Schema | None = None

    def table(self, shard: int) -> pa.Table | None:
        """The scores of a shard; None if there are none. Raises `StorageError` if they are damaged."""
        name = f"{shard_name(shard)}.parquet"
        if name not in self._names:
            return None
        try:
            # In this thread: an Arrow thread that is still running when Python ends would abort the process.
            file = pq.ParquetFile(io.BytesIO(self._store.read(f"{FOLDER}/{name}")))
            table = file.read(use_threads=False)
        except (pa.ArrowException, OSError) as exc:
            where = self._store.name(f"{FOLDER}/{name}")
            raise StorageError(f"{where}: is damaged; remove it, and score again") from exc
        return table if _made_with(table).get("run") == self._run else None

    def joined(self, shard: StoredShard) -> pa.Table:
        """A shard's metadata with its scores; null for scores that only other shards have."""
        metadata = shard.metadata
        if not self._names:
            return metadata
        if self._usual is None:
            known = (self.table(int(name.partition(".")[0])) for name in sorted(self._names))
            self._usual = next((table.schema for table in known if table is not None), pa.schema([]))
        scores = self.table(shard.shard)
        if scores is not None and not scores.column("key").equals(metadata.column("key")):
            raise StorageError(f"{self._store.name(FOLDER)}/{shard.name}.parquet: does not have the keys of its shard")
        own = scores.schema if scores is not None else self._usual
        for column in dict.fromkeys([*self._usual, *own]):
            if column.name != "key" and column.name not in metadata.column_names:
                has = scores is not None and column.name in scores.column_names
                values = scores.column(column.name) if has else pa.nulls(metadata.num_rows, column.type)
                metadata = metadata.append_column(column.with_nullable(True), values)
        return metadata


def score_shards(
    store: Store,
    shards: Iterator[StoredShard],
    record: RunRecord,
    scorers: Sequence[tuple[Declaration, Scorer]],
    *,
    again: bool = False,
    progress: Callable[[ScoreReport], None] | None = None,
) -> ScoreReport:
    """Write the scores of shards; shards that already have them are skipped.

    Args:
        record: the output's record.
        again: replace scores that were made with other weights or versions.

    Raises:
        UsageError: the output has a column of that name, or existing scores were made with other weights or versions.
        StorageError: the store failed, or a shard is damaged.
    """
    report = ScoreReport()
    tables = ScoreTables(store, record.id)
    described = {declaration.name: json.loads(json.dumps(dict(s.describe()))) for declaration, s in scorers}
    for shard in shards:
        kept = tables.table(shard.shard)
        made_with = {} if kept is None else _made_with(kept)["scorers"]
        missing = [pair for pair in scorers if again or pair[0].name not in made_with]
        for name in described.keys() & made_with.keys() if not again else ():
            if made_with[name] != described[name]:
                raise UsageError(
                    f"{store.name(FOLDER)}/{shard.name}.parquet: scorer {name} had other weights or another version; "
                    "--again replaces its scores"
                )
        if not missing:
            report.skipped += 1
            continue
        _refuse_taken(shard, missing)
        columns = _columns(shard, record, missing, report)
        table = pa.table({"key": shard.metadata.column("key")}) if kept is None else kept
        for name, values in columns.items():
            table = table.drop_columns(name) if name in table.column_names else table
            table = table.append_column(name, values)
        made_with = made_with | {declaration.name: described[declaration.name] for declaration, _ in missing}
        note = json.dumps({"run": record.id, "scorers": made_with}, sort_keys=True)
        name = f"{FOLDER}/{shard.name}.parquet"
        store.write(name, parquet_bytes(table.replace_schema_metadata({MADE_WITH: note.encode()})))
        report.shards += 1
        if progress is not None:
            progress(report)
    return report


def request_of(row: Mapping[str, Any]) -> Request:
    """The settings of a metadata row as a request for scorers."""
    return Request(**{name: row[name] for name in COMMON if row.get(name) is not None})


def _refuse_taken(shard: StoredShard, scorers: Sequence[tuple[Declaration, Scorer]]) -> None:
    for declaration, _ in scorers:
        if taken := next((name for name in declaration.columns if name in shard.metadata.column_names), None):
            raise UsageError(
                f"{shard.store.url}: has a column {taken!r} already, which --scorer {declaration.name} fills"
            )


def _columns(
    shard: StoredShard, record: RunRecord, scorers: Sequence[tuple[Declaration, Scorer]], report: ScoreReport
) -> dict[str, pa.Array]:
    """The scores of a shard's images by column, null for failed ones."""
    rows = list(python_rows(shard.metadata))
    found: list[dict[str, Any]] = [{} for _ in rows]
    pictures = _pictures(shard, rows)
    while some := list(islice(pictures, PICTURES_AT_ONCE)):
        images = [GeneratedImage(request_of(rows[at]), at, pixels) for at, pixels in some]
        report.pictures += len(images)
        for declaration, scorer in scorers:
            for image, (scores, error) in zip(images, scored(declaration, scorer, images), strict=True):
                found[image.index] |= scores
                report.failures.update([error] if error else [])
    kinds = {name: JUDGED[kind] for declaration, _ in scorers for name, kind in declaration.columns.items()}
    return {name: pa.array([scores.get(name) for scores in found], kind) for name, kind in kinds.items()}


def _pictures(shard: StoredShard, rows: Sequence[Mapping[str, Any]]) -> Iterator[tuple[int, np.ndarray]]:
    """The position and the pixels of each finished image."""
    made = [at for at, row in enumerate(rows) if row["status"] == "ok"]
    for at, data in zip(made, shard.images(), strict=True):
        row = rows[at]
        try:
            yield at, np.asarray(decoded(data, (row["width"], row["height"])))
        except ValueError as exc:
            raise StorageError(f"{shard.store.name(shard.name)}: image {row['key']} {exc}") from exc


def _made_with(table: pa.Table) -> dict[str, Any]:
    """The identity of the output, and a description of the scorers."""
    try:
        found = json.loads((table.schema.metadata or {})[MADE_WITH])
        return found if isinstance(found.get("scorers"), dict) else {"run": None, "scorers": {}}
    except (KeyError, ValueError, AttributeError):
        return {"run": "", "scorers": {}}
