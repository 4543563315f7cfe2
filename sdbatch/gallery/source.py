"""The rows of an output as the gallery and the contact sheet need them: pictures only where they are asked for."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from sdbatch.output.dataset import open_dataset
from sdbatch.output.json_rows import python_rows
from sdbatch.output.keys import EXTENSIONS
from sdbatch.output.stored import StoredFiles
from sdbatch.record import RunRecord

__all__ = ["Source", "SourceRow"]


@dataclass(frozen=True, slots=True)
class SourceRow:
    """One row: its metadata, and its image file if that lies inside a Parquet or tar file."""

    values: Mapping[str, Any]
    contained: bytes | None


class Source:
    """The finished shards of the output at `url`, in input order.

    Raises:
        UsageError: there is no finished shard, or run.json can't be read.
        StorageError: the store refuses, or a file is missing or damaged.
    """

    def __init__(self, url: str, options: Mapping[str, Any] | None = None) -> None:
        self._dataset = open_dataset(url, options)
        self.store = self._dataset.store
        record = RunRecord.read(self.store)
        self.name = self.store.url.rpartition("/")[2]
        self.model = record.model["name"]
        self.model_hash = record.model["hash"]
        self.extension = EXTENSIONS[record.settings["image_format"]]

    def rows(self) -> Iterator[SourceRow]:
        """All rows, failed ones too. A shard's metadata is held at a time, and of its pictures one."""
        for shard in self._dataset.stored_shards():
            contained = None if isinstance(shard, StoredFiles) else shard.images()
            for values in python_rows(shard.metadata):
                made = values["status"] == "ok"
                yield SourceRow(values, next(contained) if made and contained else None)

    def image(self, row: SourceRow) -> bytes | None:
        """The row's image file; None if it failed."""
        if row.contained is not None or row.values["status"] != "ok":
            return row.contained
        return self.store.read(row.values["file_name"])
