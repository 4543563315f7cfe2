"""One file of a prompt table."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa

__all__ = ["InputFile"]


@dataclass(frozen=True)
class InputFile:
    """One file of the prompt table.

    Attributes:
        path: absolute path or URL.
        size: bytes.
        stamp: changes when the content does: an etag, else the time of change.
        rows: rows in the file.
        row_groups: rows in each of its row groups; a row group can only be decoded from its beginning.
        format: "parquet", "arrow", "xlsx", "csv", "tsv", "jsonl", "json" or "txt"; "prompt file", a text that is one
            row; "output", a shard that another run has made, of which the images that were made are the rows; or
            "prompt", of which the path is the prompt itself.
        schema: its columns, as they are read: in the types of `plain_schema`; those of its partitions are the last.
        encoding: of text.
        partitions: the columns that are not in the file, but in its name or its folders' names: name to value.
        name: what the metadata calls it: its path below the folder that was named, or below that of the glob's fixed
            part, with its partitions, so that it stays when the whole table moves; None of a prompt itself.
        said: how the file is read, where its name does not say ("is read with ';' between its columns").
        sha256: of its content, of a table that Python gave and OUT keeps; else empty.
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
    said: str = ""
    sha256: str = ""

    @property
    def own_schema(self) -> pa.Schema:
        """The columns that are in the file itself."""
        if not self.partitions:
            return self.schema
        return pa.schema([column for column in self.schema if column.name not in self.partitions], self.schema.metadata)
