"""A shard's metadata: one row an image, failed ones too, in input order, with one schema for all shards."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.types as pt

from sdbatch.diffusion.request import Request
from sdbatch.prompts import Columns

__all__ = ["FOLDER_METADATA", "Outcome", "folder_table", "image_type", "metadata_schema", "metadata_table"]

FOLDER_METADATA = "metadata.parquet"
image_type = pa.struct({"bytes": pa.binary(), "path": pa.string()})

SETTINGS = {
    "prompt": pa.string(),
    "negative_prompt": pa.string(),
    "seed": pa.int64(),
    "sampler": pa.string(),
    "steps": pa.int64(),
    "guidance_scale": pa.float64(),
    "height": pa.int64(),
    "width": pa.int64(),
}
OUTCOME = {
    "model": pa.string(),
    "status": pa.string(),
    "error": pa.string(),
    "sha256": pa.string(),
    "prompt_tokens": pa.int64(),
    "prompt_truncated": pa.bool_(),
}


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of one image, as its metadata row tells it. `request` has no size left open."""

    request: Request
    error: str | None = None
    sha256: str | None = None
    prompt_tokens: int | None = None
    prompt_truncated: bool | None = None

    def row(self, model: str) -> dict[str, Any]:
        """The settings and outcome columns."""
        settings = {name: getattr(self.request, name) for name in SETTINGS}
        return settings | {
            "model": model,
            "status": "ok" if self.error is None else "failed",
            "error": self.error,
            "sha256": self.sha256,
            "prompt_tokens": self.prompt_tokens,
            "prompt_truncated": self.prompt_truncated,
        }


def metadata_schema(columns: Columns, layout: str) -> pa.Schema:
    """The columns of `NNNNN.parquet`: the table's own, then sdbatch's.

    The same for every shard of an output.
    """
    own = {"key": pa.string()}
    if layout == "files":
        own["file_name"] = pa.string()
    if layout == "parquet":
        own["image"] = image_type
    fields = [*columns.schema, *(pa.field(name, kind) for name, kind in (own | SETTINGS | OUTCOME).items())]
    features = {name: {"_type": "Image"} for name in ("image",) if layout == "parquet"}
    # By this Hugging Face datasets knows that the bytes are a picture.
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
    """The shard's metadata without `image`.

    Args:
        table: the shard's rows of the prompt table; each has the same number of images.
        keys, outcomes: of the images, in order.
        model: the model's name.
        extra: further columns of strings, by name, that come after `key`.
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
    rows = [outcome.row(model) for outcome in outcomes]
    for name, kind in (SETTINGS | OUTCOME).items():
        arrays[name] = pa.array([row[name] for row in rows], kind)
    return pa.table(arrays)


def folder_table(metadata: pa.Table, file_names: Sequence[str]) -> pa.Table:
    """`metadata.parquet` beside a folder's images, from the rows of those images.

    As Hugging Face's imagefolder wants it: `file_name` relative to the folder, the caption in `text`.
    Left out are columns that it takes for further image files or has no type for, and the table's own `text`.
    """
    kept = [field.name for field in metadata.schema if not _unfit(field)]
    kept = [name for name in kept if name not in ("text", "status", "error")]
    arrays = {"file_name": pa.array(file_names, pa.string()), "text": metadata.column("prompt")}
    return pa.table(arrays | {name: metadata.column(name) for name in kept})


def _unfit(field: pa.Field) -> bool:
    if field.name.endswith(("file_name", "file_names")) or field.name == "image":
        return True
    if pt.is_map(field.type) or isinstance(field.type, pa.BaseExtensionType):
        return True
    return any(_unfit(field.type.field(i)) for i in range(field.type.num_fields))
