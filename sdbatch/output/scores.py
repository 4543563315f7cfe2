"""Scores an existing output: writes a table beside each shard; the shard itself does not change."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

import numpy as np
import pyarrow as pa

from sdbatch.diffusion.request import COMMON, GeneratedImage, Request
from sdbatch.errors import StorageError, UsageError
from sdbatch.output.encoding import decoded
from sdbatch.output.json_rows import python_rows
from sdbatch.output.keys import scores_name
from sdbatch.output.manifest import RunRecord
from sdbatch.output.metadata import JUDGED
from sdbatch.output.score_tables import MADE_WITH, ScoreTable, ScoreTables
from sdbatch.output.stored import StoredShard
from sdbatch.scoring.judged_engine import scored
from sdbatch.scoring.registry import Declaration
from sdbatch.scoring.scorer import Scorer
from sdbatch.storage.held_writes import held
from sdbatch.storage.parquet import parquet_bytes
from sdbatch.storage.store import Store

__all__ = ["ScoreReport", "score_shards"]

PICTURES_AT_ONCE = 32


@dataclass
class ScoreReport:
    """The result of scoring.

    Attributes:
        shards, pictures: numbers of those scored now.
        skipped: shards that already had these scores.
        failures: how often a scorer had no score for a picture, by reason; in skipped shards, too.
    """

    shards: int = 0
    pictures: int = 0
    skipped: int = 0
    failures: Counter[str] = field(default_factory=Counter)


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
    report, target = ScoreReport(), held(store)
    tables = ScoreTables(store, record.id)
    described = {declaration.name: json.loads(json.dumps(dict(s.describe()))) for declaration, s in scorers}
    for shard in shards:
        name = scores_name(shard.shard)
        kept = tables.of(shard.shard)
        made_with = {} if kept is None else dict(kept.scorers)
        failures = {} if kept is None else dict(kept.failures)
        if not again:
            _refuse_outdated(made_with, described, store.name(name))
        missing = [pair for pair in scorers if again or pair[0].name not in made_with]
        if missing:
            _refuse_taken(shard, missing)
            columns, failed = _columns(shard, record, missing, report)
            failures |= failed
            made_with |= {declaration.name: described[declaration.name] for declaration, _ in missing}
            table = _with_columns(kept, shard.metadata.column("key"), columns)
            target.write(name, _file(table, record.id, made_with, failures))
            target.commit(when_due=True)
        for scorer in described:
            report.failures.update(failures.get(scorer, {}))
        if not missing:
            report.skipped += 1
            continue
        report.shards += 1
        if progress is not None:
            progress(report)
    target.commit()
    return report


def _refuse_outdated(made_with: Mapping[str, Any], described: Mapping[str, Any], path: str) -> None:
    for scorer in described.keys() & made_with.keys():
        if made_with[scorer] != described[scorer]:
            raise UsageError(
                f"{path}: scorer {scorer} had other weights or another version; --again replaces its scores"
            )


def _with_columns(kept: ScoreTable | None, keys: pa.ChunkedArray, columns: Mapping[str, pa.Array]) -> pa.Table:
    """The shard's table of scores, with new columns, or other values for those that it has."""
    table = pa.table({"key": keys}) if kept is None else kept.read(keys)
    for name, values in columns.items():
        table = table.drop_columns(name) if name in table.column_names else table
        table = table.append_column(name, values)
    return table


def _file(table: pa.Table, run: str | None, made_with: Mapping[str, Any], failures: Mapping[str, Any]) -> bytes:
    counted = {name: counts for name, counts in failures.items() if counts}
    note = json.dumps({"run": run, "scorers": made_with} | ({"failures": counted} if counted else {}), sort_keys=True)
    return parquet_bytes(table.replace_schema_metadata({MADE_WITH: note.encode()}))


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
) -> tuple[dict[str, pa.Array], dict[str, Counter[str]]]:
    """The scores of a shard's images by column, null for failed ones, and the failures of each scorer by reason."""
    failed: dict[str, Counter[str]] = {declaration.name: Counter() for declaration, _ in scorers}
    rows = list(python_rows(shard.metadata))
    found: list[dict[str, Any]] = [{} for _ in rows]
    pictures = _pictures(shard, rows)
    while some := list(islice(pictures, PICTURES_AT_ONCE)):
        images = [GeneratedImage(request_of(rows[at]), at, pixels) for at, pixels in some]
        report.pictures += len(images)
        for declaration, scorer in scorers:
            for image, (scores, error) in zip(images, scored(declaration, scorer, images), strict=True):
                found[image.index] |= scores
                failed[declaration.name].update([error] if error else [])
    kinds = {name: JUDGED[kind] for declaration, _ in scorers for name, kind in declaration.columns.items()}
    return {name: pa.array([scores.get(name) for scores in found], kind) for name, kind in kinds.items()}, failed


def _pictures(shard: StoredShard, rows: Sequence[Mapping[str, Any]]) -> Iterator[tuple[int, np.ndarray]]:
    """The position and the pixels of each finished image."""
    made = [at for at, row in enumerate(rows) if row["status"] == "ok"]
    for at, data in zip(made, shard.images(), strict=True):
        row = rows[at]
        try:
            yield at, np.asarray(decoded(data, (row["width"], row["height"])))
        except ValueError as exc:
            raise StorageError(f"{shard.store.name(shard.name)}: image {row['key']} {exc}") from exc
