"""One file of a prompt table."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa

__all__ = ["InputFile"]


@dataclass(frozen=True, slots=True)
class InputFile:
    """One file of the prompt table.

    Attributes:
        path: absolute path or URL.
        size: its size in bytes.
        stamp: changes when the content does: an etag, or the modification time.
        rows: rows in the file.
        row_groups: rows in each of its row groups; a row group can only be decoded from its beginning.
        format: "parquet", "arrow", "xlsx", "csv", "tsv", "jsonl", "json" or "txt"; "prompt file" for a text file
            that is one row; "output" for a shard of another run, whose rows are the finished images; or "prompt", whose
            path is the prompt itself.
        schema: its columns in the types of `plain_schema`; those of partitions come last.
        encoding: the encoding of a text file.
        partitions: the columns in its own name or in those of its folders: name to value.
        name: its name in the metadata: the path below the given folder, or below the glob's fixed part, with its
            partitions, so that the name stays the same if the whole table moves; None for a prompt.
        note: how the file is read, if that does not follow from its name ("is read with ';' between its columns").
        sha256: the hash of a table from Python that OUT keeps; otherwise empty.
    """

    path: str
    size: int
    stamp: str
    rows: int
    row_groups: tuple[int, ...]
    format: str
    schema: pa.Schema
    encoding: str = "utf-8"
    partitions: Mapping[str, Any] = field(default_factory=dict)
    name: str | None = None
    note: str = ""
    sha256: str = ""

    @property
    def own_schema(self) -> pa.Schema:
        """The columns in the file itself, without partitions."""
        if not self.partitions:
            return self.schema
        return pa.schema([column for column in self.schema if column.name not in self.partitions], self.schema.metadata)
