"""Input pictures that an output keeps (`--keep-input-images`): columns of structs of bytes and path in its metadata."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pyarrow.types as pt

__all__ = ["image_type", "kept_type", "kept_types", "path_schema", "with_paths", "without_bytes"]

image_type = pa.struct({"bytes": pa.binary(), "path": pa.string()})
"""A picture in a table, as Hugging Face writes it."""


def kept_type(paths: pa.DataType) -> pa.DataType:
    """The type of a column of kept pictures, from the type that it has with paths alone."""
    return pa.list_(image_type) if pt.is_list(paths) else image_type


def kept_types(metadata: pa.Schema) -> dict[str, pa.DataType]:
    """The columns of kept input pictures in an output's metadata, with their types.

    The table's own columns, which may have the same types, come before `key`.
    """
    own = list(metadata)[metadata.get_field_index("key") + 1 :]
    return {field.name: field.type for field in own if field.name != "image" and _is_kept(field.type)}


def _is_kept(kind: pa.DataType) -> bool:
    return kind == image_type or (pt.is_list(kind) and kind.value_type == image_type)


def without_bytes(parquet: pq.ParquetFile, names: Iterable[str], kept: Mapping[str, pa.DataType]) -> list[str]:
    """The parts of a file to read for the columns `names`, with only the paths of kept pictures."""
    leaves = [parquet.schema.column(i).path for i in range(len(parquet.schema))]
    paths = {name: [leaf for leaf in leaves if leaf.startswith(f"{name}.") and leaf.endswith(".path")] for name in kept}
    return [part for name in names for part in paths.get(name, [name])]


def path_schema(schema: pa.Schema, kept: Mapping[str, pa.DataType]) -> pa.Schema:
    """The schema with the paths of kept pictures: strings, or lists of strings."""
    fields = [field.with_type(_path_type(field.type)) if field.name in kept else field for field in schema]
    return pa.schema(fields, schema.metadata)


def with_paths(rows: pa.RecordBatch, kept: Mapping[str, pa.DataType]) -> pa.RecordBatch:
    """The rows with the paths of kept pictures."""
    for place, field in enumerate(rows.schema):
        if field.name in kept:
            paths = [_paths(picture) for picture in rows.column(place).to_pylist()]
            kind = _path_type(field.type)
            rows = rows.set_column(place, field.with_type(kind), pa.array(paths, kind))
    return rows


def _path_type(kept: pa.DataType) -> pa.DataType:
    return pa.list_(pa.string()) if pt.is_list(kept) else pa.string()


def _paths(picture: Any) -> Any:
    if isinstance(picture, list):
        return [_paths(one) for one in picture]
    return picture and picture["path"]
