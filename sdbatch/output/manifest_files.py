"""run.json and the files that extend it: each is created once and never changed.

run.json            the initial inputs and settings; replaced only by --overwrite
engine.json         engine settings and device, if there was nothing to make when run.json was written
inputs-NNNN.json    input files that were added later
replaced.json       marks that everything replaced by run.json is removed
__prompts/          a table passed from Python, named by its content
__reports/          the totals of each run
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any
from uuid import uuid4

from sdbatch.errors import UsageError
from sdbatch.output.manifest import RunRecord
from sdbatch.output.manifest_id import MAX_BYTES, NAME, manifest_id
from sdbatch.output.manifest_json import (
    appended_json,
    engine_json,
    extended_record,
    read_record,
    record_json,
    with_engine,
)
from sdbatch.storage.store import Store
from sdbatch.typed_json import read_object

__all__ = [
    "MAX_BYTES",
    "NAME",
    "OWN_NAMES",
    "REPORTS",
    "REPORT_NAME",
    "TABLES",
    "TABLE_NAME",
    "append_inputs",
    "check_size",
    "create_manifest",
    "load_manifest",
    "manifest_id",
    "mark_replaced",
    "read_manifest",
    "replace_manifest",
    "replacing",
    "settle_engine",
    "write_report",
]

ENGINE = "engine.json"
REPLACED = "replaced.json"
REPORTS = "__reports"  # readers of datasets ignore folders whose names begin with underscores
TABLES = "__prompts"  # those passed from Python
TABLE_NAME = re.compile(r"[0-9a-f]{16}\.parquet")
REPORT_NAME = re.compile(r"\d{8}T\d{12}Z-[0-9a-f]{8}\.json")
OWN_NAMES = re.compile(r"run\.json|engine\.json|replaced\.json|inputs-\d{4,}\.json")

MAX_SHARDS = 10_000_000


def load_manifest(out: Store) -> RunRecord | None:
    """Read the record of OUT; None if there is none.

    Raises:
        UsageError: a file is damaged or of a newer sdbatch; the message names the file and the key.
    """
    content = out.read_if_there(NAME, MAX_BYTES)
    if content is None:
        return None
    record = read_record(read_object(content, out.name(NAME)), out.name(NAME))
    if record.engine is None and (content := out.read_if_there(ENGINE, MAX_BYTES)) is not None:
        engine = read_object(content, out.name(ENGINE))
        if engine.text("run", missing=None) == record.id:
            record = with_engine(record, engine)
    while (content := out.read_if_there(name := _inputs_name(record.appends + 1), MAX_BYTES)) is not None:
        more = read_object(content, out.name(name))
        if more.text("run", missing=None) != record.id:
            break  # belongs to the replaced output
        record = extended_record(record, more)
    _check(record, out.name(NAME))
    return record


def read_manifest(out: Store) -> RunRecord:
    """Read the record of an OUT that must have one.

    Raises:
        UsageError: there is none, or it can't be read.
    """
    record = load_manifest(out)
    if record is None:
        raise UsageError(f"{out.url}: has no {NAME}; is it the output of `sdbatch generate`?")
    return record


def create_manifest(out: Store, record: RunRecord) -> bool:
    """Write run.json if there is none. Returns whether it was written. Raises `UsageError` if it is too large."""
    return out.create(NAME, _dumps(record_json(record)))


def replace_manifest(out: Store, record: RunRecord) -> None:
    """Replace run.json."""
    out.replace(NAME, _dumps(record_json(record)))


def append_inputs(out: Store, record: RunRecord) -> bool:
    """Record new inputs in OUT. Returns False if another run has already recorded different ones."""
    content = {"run": record.id, **appended_json(record)}
    return out.create(_inputs_name(record.appends + 1), _dumps(content))


def settle_engine(out: Store, record: RunRecord) -> bool:
    """Record the engine settings of an OUT that has none. Returns False if another run was faster."""
    return out.create(ENGINE, _dumps({"run": record.id, **engine_json(record)}))


def replacing(out: Store, record: RunRecord) -> bool:
    """Whether OUT may still hold files of the replaced output."""
    if not record.replaces:
        return False
    content = out.read_if_there(REPLACED, MAX_BYTES)
    return content is None or read_object(content, out.name(REPLACED)).text("run", missing=None) != record.id


def mark_replaced(out: Store, record: RunRecord) -> None:
    """Record that the replaced output is completely removed."""
    out.replace(REPLACED, _dumps({"run": record.id}))


def write_report(out: Store, report: Mapping[str, Any]) -> None:
    """Write the totals of a run to a new file."""
    now = datetime.now(UTC)
    out.write(f"{REPORTS}/{now:%Y%m%dT%H%M%S%f}Z-{uuid4().hex[:8]}.json", _dumps(report))


def check_size(record: RunRecord) -> None:
    """Refuse a table with more shards than a run can handle. Raises `UsageError`."""
    if len(record.cut) > MAX_SHARDS:
        raise UsageError(
            f"{len(record.cut):,} shards are too many, {MAX_SHARDS:,} at most; choose a larger --shard-size"
        )


def _inputs_name(number: int) -> str:
    return f"inputs-{number:04d}.json"


def _dumps(content: Mapping[str, Any]) -> bytes:
    data = json.dumps(content, indent=2, ensure_ascii=False).encode() + b"\n"
    if len(data) > MAX_BYTES:
        raise UsageError(
            f"the names of the input files take {len(data):,} bytes in {NAME}, {MAX_BYTES:,} at most; merge the files"
        )
    return data


def _check(record: RunRecord, where: str) -> None:
    if len(record.cut) > MAX_SHARDS:
        raise UsageError(
            f"{where}: inputs make {len(record.cut):,} shards of {record.shard_rows:,} rows; "
            f"expected {MAX_SHARDS:,} at most; restore the file, or use another OUT"
        )
