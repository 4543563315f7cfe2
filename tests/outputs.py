"""Reads an OUT folder with third-party tools."""

from __future__ import annotations

import hashlib
import json
import re
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from sdbatch.diffusion.row_fields import own_fields
from sdbatch.storage.parquet import parquet_bytes
from tests import tables

__all__ = ["as_before_fields", "as_version_1", "content", "is_of_a_run", "markers", "metadata", "report", "write_table"]

# Columns that outputs of the first version do not have.
LATER = [
    *("guidance_rescale", "guidance_start", "guidance_stop", "source_file", "source_row"),
    *(f"{field.recorded_as}{suffix}" for field in own_fields() for suffix in ("", "_sha256")),
]
OF_A_RUN = re.compile(r"(run|engine|replaced|inputs-\d{4})\.json")


def write_table(path: Path, columns: dict, **options) -> Path:
    """A Parquet file of `columns` (lists or Arrow arrays by name)."""
    return Path(tables.write_table(path, columns, **options))


def content(out: Path) -> dict[str, str]:
    """sha256 of every file of the dataset by relative path, without what tells of one run (`is_of_a_run`)."""
    files = (p for p in sorted(out.rglob("*")) if p.is_file())
    names = {p: str(p.relative_to(out)) for p in files}
    return {name: hashlib.sha256(p.read_bytes()).hexdigest() for p, name in names.items() if not is_of_a_run(name)}


def is_of_a_run(name: str) -> bool:
    """Whether a file of an output tells of the runs that made it: the manifest, markers (timings) and reports."""
    return name.endswith("_stats.json") or name.startswith("__reports/") or OF_A_RUN.fullmatch(name) is not None


def report(out: Path) -> dict:
    """The report of the latest run."""
    return json.loads(max(out.glob("__reports/*.json")).read_text())


def markers(out: Path) -> dict[str, dict]:
    """The content of each shard's marker by its name."""
    return {p.name: json.loads(p.read_text()) for p in sorted(out.glob("*_stats.json"))}


def metadata(out: Path) -> list[dict]:
    """All metadata rows, shard after shard."""
    return [row for p in sorted(out.glob("*.parquet")) for row in pq.read_table(p).to_pylist()]


def as_before_fields(out: Path) -> None:
    """Rewrite an OUT as it was when guidance was the run's alone, and the manifest had no `fields`."""
    record = json.loads((out / "run.json").read_text())
    del record["fields"], record["settings"]["task"]
    record["schema"] = [column for column in record["schema"] if column["name"] not in LATER]
    (out / "run.json").write_text(json.dumps(record))
    for path in _metadata_files(out):
        table = pq.read_table(path)
        path.write_bytes(parquet_bytes(table.drop_columns([n for n in LATER if n in table.column_names])))


def _metadata_files(out: Path) -> list[Path]:
    return [*out.glob("*.parquet"), *out.glob("*/metadata.parquet")]


def as_version_1(out: Path) -> None:
    """Rewrite what an OUT's runs have recorded, and the type of its seeds, as version 1 of the format had it."""
    record = json.loads((out / "run.json").read_text())
    for name in ("id", "columns", "schema", "fields", "starts", "replaces"):
        del record[name]
    del record["settings"]["compression"]
    record |= {"version": 1, "report": {"images": 8}}
    (out / "run.json").write_text(json.dumps(record))
    for path in out.glob("*_stats.json"):
        marker = json.loads(path.read_text())
        del marker["run"]
        path.write_text(json.dumps(marker))
    for path in _metadata_files(out):
        table = pq.read_table(path)
        table = table.drop_columns([name for name in LATER if name in table.column_names])
        place = table.schema.get_field_index("seed")
        path.write_bytes(parquet_bytes(table.set_column(place, "seed", table["seed"].cast(pa.int64()))))
