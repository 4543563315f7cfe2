"""Tables passed from Python instead of a path (frames, Arrow tables, data sets, lists), as one Parquet file."""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import pyarrow as pa
import pyarrow.parquet as pq
import pyarrow.types as pt

from sdbatch.errors import InputError, UsageError
from sdbatch.prompts.types import as_plain, plain_schema
from sdbatch.prompts.unified import WHOLE_64

__all__ = ["GIVEN", "ArrowStream", "GivenTable", "PythonTable", "file_digest", "same_rows", "written"]

ROWS = 16_384  # of a row group
BATCH_ROWS = 1_000
GIVEN = "the given table"
EXPECTED = (
    "a path, or a table: a pandas or polars frame, an Arrow table, a Hugging Face or Ray data set, or a list of texts "
    "or of dicts"
)
Batches = Iterator[pa.RecordBatch]


class ArrowStream(Protocol):
    """An Arrow table, a pandas or polars frame, …."""

    def __arrow_c_stream__(self, requested_schema: Any = None) -> Any: ...


class LazyFrame(Protocol):
    """A lazy frame of polars."""

    @property
    def collect(self) -> Callable[..., Any]: ...


class RayDataset(Protocol):
    """A `Dataset` of Ray Data."""

    @property
    def iter_batches(self) -> Callable[..., Any]: ...


class HuggingFaceDataset(Protocol):
    """A `Dataset` of Hugging Face."""

    @property
    def with_format(self) -> Callable[..., Any]: ...


PythonTable = ArrowStream | LazyFrame | RayDataset | HuggingFaceDataset | Sequence[str | Mapping[str, Any]]
"""A table passed from Python."""


@dataclass(frozen=True)
class GivenTable:
    """A table passed from Python.

    Attributes:
        path: of its Parquet file on this machine, which exists while the run is planned.
        sha256: of that file.
    """

    path: str
    sha256: str


@contextmanager
def written(table: PythonTable) -> Iterator[GivenTable]:
    """The table as a Parquet file in a temporary folder. Equal tables make equal files.

    Args:
        table: a pandas frame, whose index is left out; anything that provides an Arrow stream (`__arrow_c_stream__`): a
            polars frame (a lazy one is collected), an Arrow table; a Hugging Face or Ray `Dataset`; a list of prompts,
            or of rows as dicts.

    Raises:
        UsageError: it is something else.
        InputError: it has values that Arrow or Parquet cannot hold.
    """
    with tempfile.TemporaryDirectory(prefix="sdbatch-") as folder:
        path = Path(folder) / "prompts.parquet"
        try:
            schema, batches = _batches(table, Path(folder))
            _write(path, schema, batches)
        except (pa.ArrowException, OverflowError, UnicodeEncodeError) as exc:
            raise InputError(f"{GIVEN}: {_shown(exc)}") from exc
        with path.open("rb") as file:
            digest = file_digest(file)
        yield GivenTable(str(path), digest)


def file_digest(file: Any) -> str:
    """sha256 of an open file."""
    digest = hashlib.sha256()
    while piece := file.read(1 << 20):
        digest.update(piece)
    return digest.hexdigest()


def same_rows(one: Any, other: Any) -> bool:
    """Whether two Parquet files (paths, or open files) have the same columns and rows, whatever wrote them."""
    first, second = pq.ParquetFile(one), pq.ParquetFile(other)
    if not first.schema_arrow.equals(second.schema_arrow) or first.metadata.num_rows != second.metadata.num_rows:
        return False
    batches = (file.iter_batches(BATCH_ROWS, use_threads=False) for file in (first, second))
    pairs = zip(*batches, strict=False)
    return all(one.serialize().equals(other.serialize()) for one, other in pairs)


def _write(path: Path, schema: pa.Schema, batches: Batches) -> None:
    repeated = [name for name in schema.names if schema.names.count(name) > 1]
    if repeated:
        raise InputError(f"{GIVEN}: has more than one column {repeated[0]!r}")
    # pandas and polars use large_string, lists do not: the same rows must make the same file.
    plain = plain_schema(pa.schema([(field.name, _usual(field.type)) for field in schema]))
    with pq.ParquetWriter(path, plain, compression="zstd") as writer:
        for group in _row_groups(batches, plain):
            writer.write_table(group, row_group_size=ROWS)


def _row_groups(batches: Batches, schema: pa.Schema) -> Iterator[pa.Table]:
    """The rows in groups of `ROWS`, however they arrive: the file's bytes follow from the rows alone."""
    waiting: list[pa.RecordBatch] = []
    count = 0
    for batch in batches:
        for start in range(0, batch.num_rows, ROWS):
            columns = [column.cast(_usual(column.type)) for column in batch.slice(start, ROWS).columns]
            piece = as_plain(pa.RecordBatch.from_arrays(columns, names=schema.names), schema, schema.names)[0]
            while count + piece.num_rows >= ROWS:
                yield pa.Table.from_batches([*waiting, piece.slice(0, ROWS - count)], schema).combine_chunks()
                waiting, piece, count = [], piece.slice(ROWS - count), 0
            waiting.append(piece)
            count += piece.num_rows
    if count:
        yield pa.Table.from_batches(waiting, schema).combine_chunks()


def _usual(kind: pa.DataType) -> pa.DataType:
    return pa.string() if pt.is_large_string(kind) else kind


def _batches(table: Any, folder: Path) -> tuple[pa.Schema, Batches]:
    if isinstance(table, list | tuple):
        return _of_table(_listed(table))
    module = type(table).__module__.partition(".")[0]
    if module == "pandas" and hasattr(table, "columns"):
        return _of_table(_of_pandas(table))
    if module == "polars" and hasattr(table, "collect"):
        return _batches(table.collect(), folder)
    if isinstance(table, pa.Table):
        return _of_table(table)
    if hasattr(table, "iter_batches") and module == "ray":
        return _of_blocks(_ray_blocks(table), folder)
    if hasattr(table, "with_format") and hasattr(table, "iter"):
        return _of_blocks(table.with_format("arrow").iter(batch_size=BATCH_ROWS), folder)
    if hasattr(table, "__arrow_c_stream__") and not type(table).__name__.endswith("Series"):
        return _of_stream(pa.RecordBatchReader.from_stream(table))
    if hasattr(table, "to_arrow"):
        return _batches(table.to_arrow(), folder)
    splits = ", ".join(map(repr, table)) if isinstance(table, Mapping) else ""
    hint = f"; it holds several: name one of {splits}" if splits and hasattr(table, "column_names") else ""
    raise UsageError(f"prompts is a {type(table).__name__}; expected {EXPECTED}{hint}")


def _shown(exc: Exception) -> str:
    """The error's message in one line. Arrow's message about a frame has several parts, the column last."""
    parts = [str(part) for part in reversed(exc.args) if str(part)] or [type(exc).__name__]
    return ": ".join(parts).splitlines()[0]


def _of_pandas(frame: Any) -> pa.Table:
    try:
        return pa.Table.from_pandas(frame, preserve_index=False)
    except (TypeError, ValueError) as exc:  # of sparse columns, and Arrow's own
        raise InputError(f"{GIVEN}: {_shown(exc)}") from exc


def _of_table(table: pa.Table) -> tuple[pa.Schema, Batches]:
    return table.schema, iter(table.to_batches())


def _of_stream(reader: pa.RecordBatchReader) -> tuple[pa.Schema, Batches]:
    return reader.schema, iter(reader)


def _of_blocks(blocks: Iterable[pa.Table], folder: Path) -> tuple[pa.Schema, Batches]:
    """Tables whose types may differ, as one: kept in a file until all are known."""
    schemas: list[pa.Schema] = []
    counts: list[int] = []
    path = folder / "blocks"
    with path.open("wb") as file:
        for block in blocks:
            if block.num_columns == 0:
                continue
            with pa.ipc.new_stream(file, block.schema) as stream:
                stream.write_table(block)
            if not schemas or block.schema != schemas[-1]:
                schemas.append(block.schema.remove_metadata())
            counts.append(block.num_rows)
    common = pa.unify_schemas(schemas, promote_options="permissive") if schemas else pa.schema([])
    return common, _again(path, len(counts), common)


def _again(path: Path, blocks: int, schema: pa.Schema) -> Batches:
    with path.open("rb") as file:
        for _ in range(blocks):
            block = pa.ipc.open_stream(file).read_all()
            columns = [
                block.column(field.name).cast(field.type)
                if field.name in block.column_names
                else pa.nulls(block.num_rows, field.type)
                for field in schema
            ]
            yield from pa.Table.from_arrays(columns, schema=schema).to_batches()


def _ray_blocks(dataset: Any) -> Iterator[pa.Table]:
    """The blocks of a Ray data set in its own order: a run continues only the same table."""
    options = dataset.context.execution_options
    before, options.preserve_order = options.preserve_order, True
    try:
        yield from dataset.iter_batches(batch_size=None, batch_format="pyarrow")
    finally:
        options.preserve_order = before


def _listed(rows: Sequence[Any]) -> pa.Table:
    if all(isinstance(row, str) for row in rows):
        return pa.table({"prompt": pa.array(rows, pa.string())})
    kind = str if isinstance(rows[0], str) else Mapping
    odd = next((place for place, row in enumerate(rows) if not isinstance(row, kind)), None)
    if odd is not None:
        raise UsageError(f"prompts[{odd}] is a {type(rows[odd]).__name__}; expected a list of texts, or of dicts")
    names = list(dict.fromkeys(name for row in rows for name in row))
    columns = {}
    for name in names:
        try:
            columns[name] = _column([row.get(name) for row in rows])
        except (pa.ArrowException, OverflowError, TypeError) as exc:
            raise InputError(f"{GIVEN}: column {name!r}: {_shown(exc)}") from exc
    if odd_name := next((name for name in names if not isinstance(name, str)), None):
        raise UsageError(f"prompts has the key {odd_name!r}; expected names of columns")
    return pa.table(columns)


def _column(values: list[Any]) -> pa.Array:
    try:
        return pa.array(values)
    except (OverflowError, pa.ArrowInvalid):
        whole = [value for value in values if value is not None]
        if any(not isinstance(value, int) or isinstance(value, bool) for value in whole) or max(whole) < 2**63:
            raise
        # Seeds, which Arrow does not infer; beside them, -1 is none.
        return pa.array(values, pa.uint64() if min(whole) >= 0 else WHOLE_64)
