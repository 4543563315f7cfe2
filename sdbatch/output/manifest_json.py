"""The record of an OUT to and from the JSON of its manifest."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from sdbatch.bounds import MAX_INT64, Number, Whole
from sdbatch.diffusion.request import FIRST_FIELDS, TEXT_TO_IMAGE
from sdbatch.diffusion.row_fields import named_fields
from sdbatch.engine_settings import EngineSettings
from sdbatch.errors import UsageError
from sdbatch.fields import UNRECORDED, Field
from sdbatch.kinds import Choice, Flag, Picture, Pictures, Several, Text
from sdbatch.option_kinds import Words
from sdbatch.output.footprint import Footprint
from sdbatch.output.manifest import FORMAT_VERSION, RunRecord, as_json, is_recorded
from sdbatch.prompts.shards import Cut
from sdbatch.settings import IMAGE_FORMATS, LAYOUTS, MAX_IMAGES_PER_SHARD, RUN_FIELDS
from sdbatch.typed_json import TypedObject
from sdbatch.weighted_files import WeightedFiles

__all__ = ["appended_json", "engine_json", "extended_record", "read_record", "record_json", "with_engine"]

MAX_ROWS = 10**12


def record_json(record: RunRecord) -> dict[str, Any]:
    """The content of run.json."""
    return {
        "version": record.version,
        "id": record.id,
        "settings": dict(record.settings),
        "columns": record.columns,
        "schema": record.schema,
        "fields": record.fields,
        "model": dict(record.model),
        **engine_json(record),
        "shard_rows": record.shard_rows,
        "starts": list(record.starts),
        "inputs": list(record.inputs),
        "replaces": [footprint.to_json() for footprint in record.replaces],
        **_networks_json(record.networks),
    }


def engine_json(record: RunRecord) -> dict[str, Any]:
    """The engine settings, and the device and versions of the first pictures."""
    engine = {} if record.engine is None else record.engine.arguments()
    return {"engine": engine, "device": dict(record.device), "versions": dict(record.versions)}


def appended_json(record: RunRecord) -> dict[str, Any]:
    """What a record has beyond what its OUT has recorded."""
    starts = [start for start in record.starts if start >= record.recorded]
    content = {"inputs": list(record.inputs[record.recorded :]), "starts": starts}
    return content | _networks_json(record.networks[record.recorded_networks :])


def read_record(content: TypedObject, where: str) -> RunRecord:
    """The record in a run.json.

    Raises:
        UsageError: it is damaged or of a newer sdbatch; the message names `where` and the key.
    """
    version = content.whole("version", 1, MAX_INT64)
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
        fields=_fields(content) if "fields" in content.content else None,
        versions=content.texts("versions", missing={}),
        device=_device(content),
        id=content.text("id") if known else None,
        replaces=tuple(_footprint(entry) for entry in content.objects("replaces", missing=[])),
        networks=(networks := _networks(content)),
        recorded=len(inputs),
        recorded_networks=len(networks),
        version=version,
    )


def with_engine(record: RunRecord, content: TypedObject) -> RunRecord:
    """The record with the engine settings of an engine.json. Raises `UsageError`."""
    versions = content.texts("versions", missing=record.versions)
    return dataclasses.replace(
        record, engine=_engine(content.object("engine")), versions=versions, device=_device(content)
    )


def extended_record(record: RunRecord, more: TypedObject) -> RunRecord:
    """The record with the inputs of an inputs-NNNN.json. Raises `UsageError`."""
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
    names = ("setting", "name", "source", "commit", "sha256", "stamp")
    return [{name: entry.text(name, missing="") for name in names} for entry in content.objects("networks", missing=[])]


def _networks_json(networks: Sequence[Mapping[str, str]]) -> dict[str, Any]:
    """The networks; nothing if there are none, so that the file is the same as without this key."""
    return {"networks": [dict(network) for network in networks]} if networks else {}


def _types(columns: Sequence[TypedObject]) -> list[dict[str, str]]:
    return [{"name": column.text("name"), "type": column.text("type")} for column in columns]


def _fields(content: TypedObject) -> list[dict[str, str]]:
    fields = _types(content.objects("fields"))
    names = {field["name"] for field in fields}
    if lacking := [field.recorded_as for field in FIRST_FIELDS if field.recorded_as not in names]:
        raise content.wrong("fields", f"an entry named {lacking[0]!r}")
    return fields


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
        content.whole(field.name, kind.minimum, max(kind.maximum, MAX_INT64), missing=None)
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
        content.whole(name, 1, MAX_INT64, missing=None)
    for name in ("source", "family"):
        content.text(name, missing="")
    for name in ("revision", "commit", "variant", "tokenizer", "prediction_type", "vae"):
        content.text(name, missing=None)
    for name in ("text_encoders", "embeddings", "part_commits"):
        content.texts(name, missing={})
    content.object("scheduler_config", missing={})
    return {"hash": None, **content.content}


def _engine(content: TypedObject) -> EngineSettings | None:
    return content.record(EngineSettings) if content.content else None


def _device(content: TypedObject) -> dict[str, str]:
    return content.texts("device", missing={})


def _input(content: TypedObject) -> dict[str, Any]:
    entry = {
        "path": content.text("path"),
        "size": content.whole("size", 0, MAX_INT64, missing=0),
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
