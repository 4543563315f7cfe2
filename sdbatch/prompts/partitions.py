"""Hive partitions: folders named `key=value` give a column's value for all files below them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import takewhile
from typing import Any
from urllib.parse import unquote_to_bytes

import pyarrow as pa

from sdbatch.errors import InputError

__all__ = ["constant_column", "is_partition", "partition_columns", "partition_folders", "partitions_of"]

NULL = "__HIVE_DEFAULT_PARTITION__"


def is_partition(folder: str) -> bool:
    """Whether a folder of this name is a partition: `key=value`, where only the value may be empty."""
    key, equals, _ = folder.partition("=")
    return bool(key and equals)


def partition_folders(path: str, below: str | None = None) -> list[str]:
    """The folder names of a file's partitions, an unbroken run directly above it, outermost first.

    Args:
        path: the file's absolute path or URL.
        below: count only partitions below this folder; by default all count.
    """
    if path.startswith(("http://", "https://")):
        path = path.partition("?")[0]  # a URL's parameters are not folders, but contain equals signs
    folders = path.split("/")[:-1]
    if below is not None:
        folders = folders[below.rstrip("/").count("/") + 1 :]
    return list(takewhile(is_partition, reversed(folders)))[::-1]


def partitions_of(path: str, below: str | None = None) -> dict[str, str | None]:
    """Keys and values of a file's partitions, decoded; see `partition_folders`.

    Raises:
        InputError: a key occurs twice, or bytes are not UTF-8.
    """
    found: dict[str, str | None] = {}
    for folder in partition_folders(path, below):
        key, _, value = folder.partition("=")
        key, value = _decoded(key, path), _decoded(value, path)
        if key in found:
            raise InputError(f"{path}: is in two partitions with the key {key!r}")
        found[key] = None if value == NULL else value
    return found


def partition_columns(paths: Sequence[str], below: str | None) -> tuple[pa.Schema, list[Mapping[str, Any]]]:
    """The columns of the partitions of a table's files, and the values of each file.

    Types are inferred as by `pyarrow.dataset`: int32 if all values of a key fit, null if all are null, else string.

    Raises:
        InputError: as `partitions_of`; or files differ in their keys.
    """
    found = [partitions_of(path, below) for path in paths]
    for path, partitions in zip(paths, found, strict=True):
        if partitions.keys() != found[0].keys():
            raise InputError(f"{path}: is in {_keys(partitions)}; {paths[0]} is in {_keys(found[0])}")
    columns = {key: _typed([partitions[key] for partitions in found]) for key in found[0]}
    values = [column.to_pylist() for column in columns.values()]
    rows: list[Mapping[str, Any]] = [dict(zip(columns, row, strict=True)) for row in zip(*values, strict=True)]
    rows = rows if columns else [{}] * len(found)
    return pa.schema([(key, column.type) for key, column in columns.items()]), rows


def constant_column(value: Any, kind: pa.DataType, rows: int) -> pa.Array:
    """A partition's value as a column of `rows` rows."""
    return pa.nulls(rows, kind) if value is None else pa.repeat(pa.scalar(value, kind), rows)


def _decoded(text: str, path: str) -> str:
    try:
        return unquote_to_bytes(text).decode()
    except UnicodeError as exc:
        raise InputError(f"{path!r}: the partition {text!r} is not valid UTF-8") from exc


def _typed(values: list[str | None]) -> pa.Array:
    texts = pa.array(values, pa.string())
    if texts.null_count == len(texts):
        return pa.nulls(len(texts))
    try:
        return texts.cast(pa.int32())
    except pa.ArrowInvalid:
        return texts


def _keys(partitions: Mapping[str, str | None]) -> str:
    return f"partitions of {', '.join(map(repr, partitions))}" if partitions else "no partition (a folder key=value)"
