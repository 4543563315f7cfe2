"""run.json and the files that extend it: each is created once and never changed.

run.json            the initial inputs and settings; replaced only by --overwrite
engine.json         engine settings and device, if there was nothing to make when run.json was written
inputs-NNNN.json    input files that were added later
replaced.json       marks that everything replaced by run.json is removed
__reports/          the totals of each run
"""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any
from uuid import uuid4

from sdbatch.bounds import Number, Whole
from sdbatch.diffusion.declarations import named_fields
from sdbatch.diffusion.request import TEXT_TO_IMAGE
from sdbatch.engine_settings import EngineSettings
from sdbatch.errors import UsageError
from sdbatch.fields import UNRECORDED, Field
from sdbatch.kinds import Choice, Flag, Picture, Pictures, Several, Text, WeightedFiles, Words
from sdbatch.output.footprint import Footprint
from sdbatch.output.manifest import FORMAT_VERSION, RunRecord, as_json, is_recorded
from sdbatch.output.manifest_id import NAME, manifest_id
from sdbatch.prompts.shards import Cut
from sdbatch.settings import IMAGE_FORMATS, LAYOUTS, MAX_IMAGES_PER_SHARD, RUN_FIELDS
from sdbatch.storage.store import Store
from sdbatch.typed_json import TypedObject, read_object

__all__ = [
    "NAME",
    "OWN_NAMES",
    "REPORTS",
    "REPORT_NAME",
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
REPORT_NAME = re.compile(r"\d{8}T\d{12}Z-[0-9a-f]{8}\.json")
OWN_NAMES = re.compile(r"run\.json|engine\.json|replaced\.json|inputs-\d{4,}\.json")

MAX_ROWS = 10**12
MAX_SHARDS = 10_000_000
MOST = 2**63 - 1


def load_manifest(out: Store) -> RunRecord | None:
    """Read the record of OUT; None if there is none.

    Raises:
        UsageError: a file is damaged or of a newer sdbatch; the message names the file and the key.
    """
    content = out.read_if_there(NAME)
    if content is None:
        return None
    record = _read_record(read_object(content, out.name(NAME)), out.name(NAME))
    if record.engine is None and (content := out.read_if_there(ENGINE)) is not None:
        engine = read_object(content, out.name(ENGINE))
        if engine.text("run", missing=None) == record.id:
            versions = engine.texts("versions", missing=record.versions)
            record = dataclasses.replace(
                record, engine=_engine(engine.object("engine")), versions=versions, device=_device(engine)
            )
    while (content := out.read_if_there(name := _inputs_name(record.appends + 1))) is not None:
        more = read_object(content, out.name(name))
        if more.text("run", missing=None) != record.id:
            break  # belongs to the replaced output
        record = _extended(record, more)
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
    """Write run.json if there is none. Returns whether it was written."""
    return out.create(NAME, _to_json(record))


def replace_manifest(out: Store, record: RunRecord) -> None:
    """Replace run.json."""
    out.replace(NAME, _to_json(record))


def append_inputs(out: Store, record: RunRecord) -> bool:
    """Record new inputs in OUT. Returns False if another run has already recorded different ones."""
    starts = [start for start in record.starts if start >= record.recorded]
    content = {"run": record.id, "inputs": list(record.inputs[record.recorded :]), "starts": starts}
    content |= _networks_json(record.networks[record.recorded_networks :])
    return out.create(_inputs_name(record.appends + 1), _dumps(content))


def settle_engine(out: Store, record: RunRecord) -> bool:
    """Record the engine settings of an OUT that has none. Returns False if another run was faster."""
    return out.create(ENGINE, _dumps({"run": record.id, **_engine_json(record)}))


def replacing(out: Store, record: RunRecord) -> bool:
    """Whether OUT may still hold files of the replaced output."""
    if not record.replaces:
        return False
    content = out.read_if_there(REPLACED)
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
    return json.dumps(content, indent=2, ensure_ascii=False).encode() + b"\n"


def _to_json(record: RunRecord) -> bytes:
    return _dumps(
        {
            "version": record.version,
            "id": record.id,
            "settings": dict(record.settings),
            "columns": record.columns,
            "schema": record.schema,
            "fields": record.fields,
            "model": dict(record.model),
            **_engine_json(record),
            "shard_rows": record.shard_rows,
            "starts": list(record.starts),
            "inputs": list(record.inputs),
            "replaces": [footprint.to_json() for footprint in record.replaces],
            **_networks_json(record.networks),
        }
    )


def _read_record(content: TypedObject, where: str) -> RunRecord:
    version = content.whole("version", 1, MOST)
    if version > FORMAT_VERSION:
        raise UsageError(f"{where} has format version {version}; this sdbatch reads up to {FORMAT_VERSION}")
    inputs = [_input(entry) for entry in content.objects("inputs")]
    known = version > 1
    model = _model(content.object("model"))
    return RunRecord(
        settings=_settings(content.object("settings"), model.get("family", "")),
        model=model,
        engine=_engine(content.object("engine")),
        inputs=inputs,
        shard_rows=content.whole("shard_rows", 1, MAX_IMAGES_PER_SHARD),
        starts=content.wholes("starts", 0, len(inputs)) if known else (),
        columns=content.texts("columns") if known else None,
        schema=_types(content.objects("schema")) if known else None,
        fields=_types(content.objects("fields")) if "fields" in content.content else None,
        versions=content.texts("versions", missing={}),
        device=_device(content),
        id=content.text("id") if known else None,
        replaces=tuple(_footprint(entry) for entry in content.objects("replaces", missing=[])),
        networks=(networks := _networks(content)),
        recorded=len(inputs),
        recorded_networks=len(networks),
        version=version,
    )


def _extended(record: RunRecord, more: TypedObject) -> RunRecord:
    inputs = [*record.inputs, *(_input(entry) for entry in more.objects("inputs"))]
    starts = record.starts + more.wholes("starts", len(record.inputs), len(inputs), missing=[])
    networks = [*record.networks, *_networks(more)]
    return dataclasses.replace(
        record,
        inputs=inputs,
        starts=starts,
        networks=networks,
        recorded=len(inputs),
        recorded_networks=len(networks),
        appends=record.appends + 1,
    )


def _networks(content: TypedObject) -> list[dict[str, str]]:
    names = ("setting", "name", "source", "commit", "sha256")
    return [{name: entry.text(name, missing="") for name in names} for entry in content.objects("networks", missing=[])]


def _networks_json(networks: Sequence[Mapping[str, str]]) -> dict[str, Any]:
    """The networks; nothing if there are none, so that the file is the same as without this key."""
    return {"networks": [dict(network) for network in networks]} if networks else {}


def _types(columns: Sequence[TypedObject]) -> list[dict[str, str]]:
    return [{"name": column.text("name"), "type": column.text("type")} for column in columns]


def _settings(content: TypedObject, family: str) -> dict[str, Any]:
    content.choice("layout", LAYOUTS)
    content.choice("image_format", IMAGE_FORMATS)
    content.whole("images_per_prompt", 1, MAX_IMAGES_PER_SHARD)
    content.whole("image_quality", 1, 100, missing=None)
    content.texts("column", missing={})
    task = content.text("task", missing=TEXT_TO_IMAGE)
    fields = [*named_fields(task, family), *(field for field in RUN_FIELDS if is_recorded(field))]
    for field in fields:
        _check_setting(content, field)
    content.texts("scorer_weights", missing={})
    before = {field.name: as_json(field.before) for field in fields if field.before is not UNRECORDED}
    return {"scorer_weights": {}} | before | dict(content.content)


def _check_setting(content: TypedObject, field: Field) -> None:
    kind = field.cell or field.kind
    if isinstance(kind, Whole):
        content.whole(field.name, kind.least, max(kind.most, MOST), missing=None)
    elif isinstance(kind, Number):
        content.number(field.name, missing=None)
    elif isinstance(kind, Flag):
        content.flag(field.name, missing=None)
    elif isinstance(kind, Words):
        content.words(field.name, missing=[])
    elif isinstance(kind, Several | Pictures):
        content.values(field.name, missing=None)
    elif isinstance(kind, Text | Choice | Picture | WeightedFiles):
        content.text(field.name, missing=None)


def _model(content: TypedObject) -> dict[str, Any]:
    content.text("name")
    content.text("hash", missing=None)
    for name in ("height", "width"):
        content.whole(name, 1, MOST, missing=None)
    for name in ("source", "family"):
        content.text(name, missing="")
    return {"hash": None, **content.content}


def _engine(content: TypedObject) -> EngineSettings | None:
    return content.record(EngineSettings) if content.content else None


def _engine_json(record: RunRecord) -> dict[str, Any]:
    engine = {} if record.engine is None else record.engine.arguments()
    return {"engine": engine, "device": dict(record.device), "versions": dict(record.versions)}


def _device(content: TypedObject) -> dict[str, str]:
    return content.texts("device", missing={})


def _input(content: TypedObject) -> dict[str, Any]:
    entry = {
        "path": content.text("path"),
        "size": content.whole("size", 0, MOST, missing=0),
        "stamp": content.text("stamp", missing=""),
        "rows": content.whole("rows", 0, MAX_ROWS),
    }
    encoding = content.text("encoding", missing=None)
    return entry if encoding is None else entry | {"encoding": encoding}


def _footprint(content: TypedObject) -> Footprint:
    rows = content.wholes("rows", 0, MAX_ROWS)
    cut = Cut(content.whole("shard_rows", 1, MAX_IMAGES_PER_SHARD), rows, content.wholes("starts", 0, len(rows)))
    return Footprint(
        cut,
        content.whole("images_per_prompt", 1, MAX_IMAGES_PER_SHARD),
        content.choice("layout", LAYOUTS),
        content.choice("image_format", IMAGE_FORMATS),
    )


def _check(record: RunRecord, where: str) -> None:
    if len(record.cut) > MAX_SHARDS:
        raise UsageError(
            f"{where}: inputs make {len(record.cut):,} shards of {record.shard_rows:,} rows; "
            f"expected {MAX_SHARDS:,} at most; restore the file, or use another OUT"
        )
