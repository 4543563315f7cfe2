"""Reads the scores of an existing output: a table beside each shard.

OUT/__scores__/NNNNN.parquet    `key` and one column per score, one row per image
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from sdbatch.bounds import MAX_INT64
from sdbatch.errors import StorageError, UsageError
from sdbatch.output.keys import SCORES, scored_shards, scores_name
from sdbatch.output.metadata import JUDGED
from sdbatch.output.stored import StoredShard
from sdbatch.storage.store import Store
from sdbatch.typed_json import read_object

__all__ = ["MADE_WITH", "ScoreTable", "ScoreTables"]

MADE_WITH = b"sdbatch"


@dataclass(frozen=True)
class ScoreTable:
    """The scores of one shard, whose values are not read yet.

    Attributes:
        scorers: a description of each scorer, by name.
        failures: how often a scorer had no score for a picture, by scorer and reason.
        schema: `key` and the scores.
    """

    path: str
    file: pq.ParquetFile
    scorers: Mapping[str, Any]
    failures: Mapping[str, Mapping[str, int]]
    schema: pa.Schema

    def read(self, keys: pa.ChunkedArray) -> pa.Table:
        """The table. Raises `StorageError` if it is damaged, or does not have the keys of its shard."""
        table = None
        if self.file.metadata.num_rows == len(keys):
            with _undamaged(self.path):
                # In this thread: an Arrow thread that is still running when Python ends would abort the process.
                table = self.file.read(use_threads=False)
        if table is None or not table.column("key").equals(keys):
            raise StorageError(f"{self.path}: does not have the keys of its shard; remove it, and score again")
        return table


class ScoreTables:
    """The scores beside an output's shards.

    Args:
        run: the identity of the output; tables of another one, which this one has replaced, are ignored.
    """

    def __init__(self, store: Store, run: str | None) -> None:
        self._store, self._run = store, run
        folder = Store(store.name(SCORES), store.options)
        self._shards = scored_shards(folder.entries()) if folder.is_folder() else set()
        self._usual: dict[str, pa.Field] | None = None  # of the first shard that has scores

    def of(self, shard: int) -> ScoreTable | None:
        """The scores of a shard; None if there are none. Raises `StorageError` if they are damaged."""
        if shard not in self._shards:
            return None
        name = scores_name(shard)
        path, content = self._store.name(name), self._store.read(name)
        with _undamaged(path):
            file = pq.ParquetFile(pa.BufferReader(content))
            schema, names = file.schema_arrow, file.schema_arrow.names
        made_with = _made_with(schema.metadata or {}, self._run)
        if made_with is None:
            return None
        scorers, failures = made_with
        kinds = dict(zip(names, schema.types, strict=True))
        is_own = len(kinds) == len(names) and kinds.pop("key", None) == pa.string()
        if not is_own or any(kind not in JUDGED.values() for kind in kinds.values()):
            raise StorageError(f"{path}: has other columns than scores; remove it, and score again")
        return ScoreTable(path, file, scorers, failures, schema)

    def joined(self, shard: StoredShard) -> pa.Table:
        """A shard's metadata with its scores; null for scores that only other shards have."""
        metadata = shard.metadata
        if not self._shards:
            return metadata
        if self._usual is None:
            known = (table for number in sorted(self._shards) if (table := self.of(number)) is not None)
            first = next(known, None)
            self._usual = {} if first is None else _by_name(first.schema)
        found = self.of(shard.shard)
        scores: Any = None if found is None else found.read(metadata.column("key"))
        own = {} if found is None else _by_name(found.schema)
        for name, column in ({**self._usual, **own} | self._usual).items():
            if found is not None and name in own and own[name].type != column.type:
                raise StorageError(
                    f"{found.path}: column {name!r} is {own[name].type}, and {column.type} beside other shards; "
                    "remove it, and score again"
                )
            if name not in metadata.column_names:
                has = scores is not None and name in own
                values = scores.column(name) if has else pa.nulls(metadata.num_rows, column.type)
                metadata = metadata.append_column(column.with_nullable(True), values)
        return metadata


def _by_name(schema: pa.Schema) -> dict[str, pa.Field]:
    return {column.name: column for column in schema if column.name != "key"}


@contextmanager
def _undamaged(path: str) -> Iterator[None]:
    try:
        yield
    except (pa.ArrowException, OSError, UnicodeDecodeError) as exc:
        raise StorageError(f"{path}: is damaged; remove it, and score again") from exc


def _made_with(
    metadata: Mapping[bytes, bytes], run: str | None
) -> tuple[Mapping[str, Any], Mapping[str, Mapping[str, int]]] | None:
    """The descriptions of the scorers, and their failures; None if the table belongs to another output, or is no
    table of scores.
    """
    try:
        found = read_object(metadata[MADE_WITH], SCORES)
        if found.text("run", None) != run:
            return None
        failures = found.object("failures", missing={})
        by_scorer = {name: failures.object(name) for name in failures.content}
        counts = {name: {why: one.whole(why, 1, MAX_INT64) for why in one.content} for name, one in by_scorer.items()}
        return found.object("scorers").content, counts
    except (KeyError, UsageError):
        return None
