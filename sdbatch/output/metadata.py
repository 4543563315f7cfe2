"""A shard's metadata: one row per image, failed ones too, in input order, with one schema for all shards."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.types as pt

from sdbatch.bounds import Number, Whole
from sdbatch.diffusion.adapters.lora_rows import Loras
from sdbatch.diffusion.request import FIRST_FIELDS, ROW_FIELDS, Request
from sdbatch.errors import PictureError
from sdbatch.fields import Field, FrozenMapping, Kind
from sdbatch.kinds import Choice, Flag, Picture, Pictures, Seed, Several, Text
from sdbatch.prompts import Columns
from sdbatch.prompts.kept_pictures import image_type, kept_type
from sdbatch.prompts.picture_cells import TablePicture
from sdbatch.weighted_files import WeightedFiles

__all__ = [
    "FOLDER_METADATA",
    "Outcome",
    "check_schema",
    "folder_table",
    "is_network",
    "kept_pictures",
    "metadata_schema",
    "metadata_table",
    "setting_types",
]

FOLDER_METADATA = "metadata.parquet"

TYPES = {
    Text: pa.string(),
    Choice: pa.string(),
    Flag: pa.bool_(),
    Seed: pa.uint64(),
    Whole: pa.int64(),
    Number: pa.float64(),
    Picture: pa.string(),  # its path or URL
    WeightedFiles: pa.string(),
}
OF_FILES = Picture | WeightedFiles
"""Settings that name files; the metadata has their hashes, too."""
OUTCOME = {
    "model": pa.string(),
    "status": pa.string(),
    "error": pa.string(),
    "sha256": pa.string(),
    "prompt_tokens": pa.int64(),
    "prompt_truncated": pa.bool_(),
}
JUDGED = {"count": pa.int64(), "flag": pa.bool_(), "number": pa.float64(), "text": pa.string()}
# Types that another writer may use instead.
KINDS = {
    pa.string(): (pt.is_string, pt.is_large_string),
    pa.int64(): (pt.is_integer,),
    pa.uint64(): (pt.is_integer,),
    pa.float64(): (pt.is_floating,),
    pa.bool_(): (pt.is_boolean,),
}


@dataclass(frozen=True, slots=True)
class Outcome:
    """The outcome of one image, for its metadata row. The size of `request` is resolved.

    `judged` holds its attempt, whether it was accepted, and its scores, in runs with scorers.
    """

    request: Request
    error: str | None = None
    sha256: str | None = None
    prompt_tokens: int | None = None
    prompt_truncated: bool | None = None
    judged: Mapping[str, Any] = field(default_factory=dict)

    def row(
        self, model: str, fields: Sequence[Field] = ROW_FIELDS, networks: Mapping[str, str] = FrozenMapping()
    ) -> dict[str, Any]:
        """The settings and outcome columns.

        Args:
            networks: hashes of the networks that rows name, by name.
        """
        settings: dict[str, Any] = {}
        for setting in fields:
            value = self.request.value(setting.name)
            settings[setting.recorded_as] = _recorded(setting, value)
            if isinstance(setting.kind, OF_FILES):
                settings[f"{setting.recorded_as}_sha256"] = _each(_digest, value)
            elif is_network(setting):
                settings[f"{setting.recorded_as}_sha256"] = _each(networks.get, value)
        return settings | {
            "model": model,
            "status": "ok" if self.error is None else "failed",
            "error": self.error,
            "sha256": self.sha256,
            "prompt_tokens": self.prompt_tokens,
            "prompt_truncated": self.prompt_truncated,
            **self.judged,
        }


def setting_types(
    fields: Sequence[Field], seed: pa.DataType | None = None, keeps_pictures: bool = False
) -> dict[str, pa.DataType]:
    """The metadata's setting columns and their types.

    Args:
        seed: type of the seeds, in outputs with another one.
        keeps_pictures: whether input pictures are kept with their bytes.
    """
    types: dict[str, pa.DataType] = {}
    for setting in fields:
        kind = _type(setting.kind)
        types[setting.recorded_as] = kept_type(kind) if keeps_pictures and _is_picture(setting) else kind
        if isinstance(setting.kind, OF_FILES) or is_network(setting):
            types[f"{setting.recorded_as}_sha256"] = pa.list_(pa.string()) if _is_list(setting) else pa.string()
    return types if seed is None else types | {"seed": seed}


def _is_list(field: Field) -> bool:
    return isinstance(field.kind, Several | Pictures)


def _is_picture(field: Field) -> bool:
    return isinstance(field.kind, Picture)


def is_network(field: Field) -> bool:
    """Whether a setting names networks, whose hashes the metadata has."""
    return isinstance(field.kind, Several) and field.kind.networks


def _type(kind: Kind) -> pa.DataType:
    if isinstance(kind, Several | Pictures):
        return pa.list_(TYPES[Picture] if isinstance(kind, Pictures) else TYPES[type(kind.of)])
    return TYPES[type(kind)]


SETTINGS = setting_types(ROW_FIELDS)


def _outcome_types(columns: Columns, keeps_pictures: bool = False) -> dict[str, pa.DataType]:
    judged = {name: JUDGED[kind] for name, kind in columns.judged.items()}
    return setting_types(columns.fields, columns.seed_type, keeps_pictures) | OUTCOME | judged


def metadata_schema(columns: Columns, layout: str) -> pa.Schema:
    """The columns of `NNNNN.parquet`: the table's own, then sdbatch's.

    The same for every shard of an output.
    """
    own = {"key": pa.string()}
    if layout == "files":
        own["file_name"] = pa.string()
    if layout == "parquet":
        own["image"] = image_type
    kinds = own | _outcome_types(columns, columns.keeps_pictures)
    fields = [*columns.schema, *(pa.field(name, kind) for name, kind in kinds.items())]
    image = {"_type": "Image"}
    features: dict[str, Any] = {"image": image} if layout == "parquet" else {}
    for setting in _kept(columns):
        features[setting.recorded_as] = {"feature": image, "_type": "List"} if _is_list(setting) else image
    # Tells Hugging Face datasets that the bytes are a picture.
    metadata = {"huggingface": json.dumps({"info": {"features": features}})} if features else None
    return pa.schema(fields, metadata)


def metadata_table(
    table: pa.Table,
    columns: Columns,
    keys: Sequence[str],
    outcomes: Sequence[Outcome],
    model: str,
    extra: Mapping[str, Sequence[Any]],
) -> pa.Table:
    """The shard's metadata without `image`; of input pictures only the paths.

    Args:
        table: the shard's rows of the prompt table; each has the same number of images.
        keys, outcomes: of the images, in order.
        model: the model's name.
        extra: further string columns, by name, placed after `key`.
    """
    arrays: dict[str, pa.ChunkedArray | pa.Array] = {}
    images = len(outcomes) // table.num_rows if table.num_rows else 1
    repeats = np.repeat(np.arange(table.num_rows), images)
    for column, name in columns.carried.items():
        values = table.column(column)
        if images > 1:
            values = values.take(pa.array(repeats))
        kind = columns.schema.field(name).type
        arrays[name] = values if values.type == kind else values.cast(kind)
    arrays["key"] = pa.array(keys, pa.string())
    for name, strings in extra.items():
        arrays[name] = pa.array(strings, pa.string())
    rows = [outcome.row(model, columns.fields, columns.networks) for outcome in outcomes]
    for name, kind in _outcome_types(columns).items():
        arrays[name] = pa.array([row.get(name) if name in columns.judged else row[name] for row in rows], kind)
    return pa.table(arrays)


def kept_pictures(columns: Columns, outcomes: Sequence[Outcome]) -> dict[str, list[Any]]:
    """The input pictures that the metadata keeps, by column: mappings of bytes and path, or lists of them."""
    return {
        field.recorded_as: [_each(_cell, outcome.request.value(field.name)) for outcome in outcomes]
        for field in _kept(columns)
    }


def _kept(columns: Columns) -> list[Field]:
    """The settings whose pictures the metadata keeps."""
    return [field for field in columns.fields if columns.keeps_pictures and _is_picture(field)]


def check_schema(schema: pa.Schema, fields: Sequence[Field] = FIRST_FIELDS) -> None:
    """Check that the columns that readers need exist exactly once, with a suitable type.

    Args:
        fields: the settings whose columns are needed.

    Raises:
        ValueError: one is missing, repeated or of another type; the message names the column.
    """
    types = {field.recorded_as: _type(field.kind) for field in fields}
    for name, kind in ({"key": pa.string()} | types | OUTCOME).items():
        places = schema.get_all_field_indices(name)
        if len(places) != 1:
            raise ValueError(f"has {len(places) or 'no'} column{'s' * bool(places)} {name!r}")
        found = schema.field(places[0]).type
        if not any(is_kind(found) for is_kind in KINDS.get(kind, (pt.is_list,))):
            raise ValueError(f"column {name!r} holds {found}; expected {kind}")


def folder_table(metadata: pa.Table, file_names: Sequence[str]) -> pa.Table:
    """`metadata.parquet` beside a folder's images, from the rows of those images.

    In the form of Hugging Face's imagefolder: `file_name` relative to the folder, the caption in `text`.
    Omits columns that it would take for further image files or has no type for, and the table's own `text`.
    """
    kept = [field.name for field in metadata.schema if not _unfit(field)]
    kept = [name for name in kept if name not in ("text", "status", "error")]
    arrays = {"file_name": pa.array(file_names, pa.string()), "text": metadata.column("prompt")}
    return pa.table(arrays | {name: metadata.column(name) for name in kept})


def _recorded(field: Field, value: Any) -> Any:
    """A value as stored in the metadata: for a picture only its name."""
    if isinstance(value, Loras):
        return value.text
    if isinstance(field.kind, Picture):
        return _each(_named, value)
    return list(value) if isinstance(value, tuple) else value


def _each(take: Callable[[Any], Any], value: Any) -> Any:
    """The result of `take` for a value, or for each value of a list."""
    return [take(one) for one in value] if isinstance(value, list) or type(value) is tuple else take(value)


def _named(value: Any) -> str | None:
    if isinstance(value, TablePicture):
        return value.path
    name = value.get("path") if isinstance(value, Mapping) else value
    return name if isinstance(name, str) else None


def _cell(value: Any) -> dict[str, Any] | None:
    """A picture with its bytes; without them if it was never read, since its row failed before."""
    if isinstance(value, TablePicture):
        return value.cell
    return None if value is None else {"bytes": None, "path": _named(value)}


def _digest(value: Any) -> str | None:
    """sha256 of a file, or of each of several; None if it could not be read, or was not read."""
    if isinstance(value, Loras):
        return ";".join(str(lora.sha256) for lora in value.files) or None
    try:
        return value.key if isinstance(value, TablePicture) else None
    except PictureError:
        return None


def _unfit(field: pa.Field) -> bool:
    if field.name.endswith(("file_name", "file_names")) or field.name == "image":
        return True
    if pt.is_map(field.type) or isinstance(field.type, pa.BaseExtensionType):
        return True
    return any(_unfit(field.type.field(i)) for i in range(field.type.num_fields))
