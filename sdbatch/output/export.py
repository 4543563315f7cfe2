"""Exports selected images of an output in another tool's format."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from sdbatch.errors import StorageError, UsageError
from sdbatch.output.dataset import Dataset, open_dataset
from sdbatch.output.export_form import Chosen, Form
from sdbatch.output.export_forms import FORMS
from sdbatch.output.json_rows import python_rows
from sdbatch.output.keys import table_row
from sdbatch.output.manifest import RunRecord
from sdbatch.output.manifest_files import read_manifest
from sdbatch.scoring.expressions import Expression
from sdbatch.scoring.judging import column_kinds
from sdbatch.storage.held_writes import held
from sdbatch.storage.store import Store

__all__ = ["ExportReport", "export"]

NOTE = ".sdbatch-export.json"


@dataclass
class ExportReport:
    """The result of an export.

    Attributes:
        images: number of made images in the output.
        chosen: those for which the condition holds.
        duplicates: chosen ones that were skipped, since an earlier image has the same value.
        written: files, folders or tars written now; the others existed.
        left_out: reasons why something else was skipped, one line each.
    """

    images: int = 0
    chosen: int = 0
    duplicates: int = 0
    written: int = 0
    left_out: tuple[str, ...] = ()


def export(
    out: str,
    dest: str,
    *,
    form: str = "imagefolder",
    where: str | None = None,
    dedup: str | None = None,
    id_column: str | None = None,
    options: Mapping[str, Any] | None = None,
) -> ExportReport:
    """Write selected images of an output to `dest`, like the command `sdbatch export`. Resumes an earlier export.

    Args:
        form: "imagefolder", "webdataset", "geneval", "dpg-bench", "hpsv2" or "t2i-compbench".
        where: a condition on columns of the metadata and on scores.
        dedup: a column; only the first of images with the same value is written.
        id_column: the column that names the items of dpg-bench, or the styles of hpsv2.

    Raises:
        UsageError: there is no output; an invalid condition or column; `dest` holds other files.
        StorageError: a store cannot be read or written, or a shard is damaged.
    """
    dataset = open_dataset(out, options)
    record = read_manifest(dataset.store)
    target = held(Store(dest, options))
    (protocol, folder), (other, place) = dataset.store.resolved(), target.resolved()
    if protocol == other and f"{place}/".startswith(f"{folder.rstrip('/')}/"):
        raise UsageError(f"DEST {dest} is inside the output itself; use a separate folder")
    columns = _columns(dataset)
    condition = Expression.parse(where, column_kinds(columns), "--where") if where is not None else None
    if dedup is not None and dedup not in columns.names:
        hint = "; score it first: sdbatch score OUT --scorer phash" if dedup == "phash" else ""
        raise UsageError(f"--dedup {dedup}: {dataset.store.url} has no column {dedup!r}{hint}")
    writer = FORMS[form](target, record, columns, id_column)
    claim = json.dumps(
        {"of": record.id, "for": form, "where": where, "dedup": dedup, "id": id_column}, sort_keys=True
    ).encode()
    is_claimed = _is_claimed(target, claim, writer)
    report = ExportReport()
    seen: set[Any] = set()
    for shard in dataset.stored_shards():
        metadata = _of_types(dataset.metadata_of(shard), columns, dataset.store.name(f"{shard.name}.parquet"))
        writer.look(shard, metadata)
        rows = list(_chosen(metadata, record, condition, dedup, seen, report))
        if rows and not is_claimed:
            target.write("/".join(filter(None, (writer.note_folder(rows), NOTE))), claim)
            is_claimed = True
        if rows:
            report.written += writer.write(shard, rows)
            target.commit(when_due=True)
    target.commit()
    report.left_out = writer.left_out
    return report


def _columns(dataset: Dataset) -> pa.Schema:
    return dataset.metadata_of(next(dataset.stored_shards())).schema


def _of_types(metadata: pa.Table, columns: pa.Schema, where: str) -> pa.Table:
    """A shard's metadata with the columns of the first shard, in their types."""
    if metadata.schema.equals(columns):
        return metadata
    try:
        return metadata.select(columns.names).cast(columns)
    except (ValueError, pa.ArrowException) as exc:
        raise StorageError(f"{where}: has columns of other types than the first shard ({exc})") from exc


def _chosen(
    metadata: pa.Table,
    record: RunRecord,
    condition: Expression | None,
    dedup: str | None,
    seen: set[Any],
    report: ExportReport,
) -> Iterator[Chosen]:
    made = 0
    for row in python_rows(metadata):
        if row["status"] != "ok":
            continue
        place, made = made, made + 1
        report.images += 1
        if condition is not None and not condition.holds(row):
            continue
        report.chosen += 1
        value = None if dedup is None else row.get(dedup)
        if value is not None and value in seen:
            report.duplicates += 1
            continue
        seen.add(value)
        yield Chosen(row, place, *table_row(row["key"], record.cut, record.settings["images_per_prompt"]))


def _is_claimed(target: Store, claim: bytes, writer: Form) -> bool:
    """Whether the folder belongs to this export already. Raises `UsageError` if it holds other files."""
    held = target.read_if_there(NOTE)
    entries = target.entries() if held is None and target.is_folder() else {}
    if entries and writer.has_note_within:
        folders = (name for name in sorted(entries) if name.endswith("/"))
        held = next((note for name in folders if (note := target.read_if_there(f"{name}{NOTE}")) is not None), None)
    if held is None and entries:
        raise UsageError(f"DEST {target.url} holds files that no export of sdbatch has written; use another folder")
    if held not in (None, claim):
        raise UsageError(
            f"DEST {target.url} holds an export of another output, or with other options; use another folder"
        )
    return held is not None
