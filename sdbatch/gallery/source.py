"""The rows of an output for the gallery and the contact sheet; pictures are read on demand."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from PIL import Image

from sdbatch.errors import PictureError, StorageError
from sdbatch.output.dataset import next_image, open_dataset
from sdbatch.output.encoding import decoded
from sdbatch.output.json_rows import python_rows
from sdbatch.output.keys import EXTENSIONS
from sdbatch.output.manifest_files import read_manifest
from sdbatch.output.remake import row_folder
from sdbatch.output.stored import StoredFiles
from sdbatch.prompts.picture_cells import PictureReader
from sdbatch.storage.held_writes import held

__all__ = ["Source", "SourceRow"]


@dataclass(frozen=True, slots=True)
class SourceRow:
    """One row: its metadata, its image file if that is inside a Parquet or tar file, and its input picture if kept."""

    values: Mapping[str, Any]
    contained: bytes | None
    kept: Mapping[str, Any] | None = None

    @property
    def size(self) -> int:
        """The bytes of the pictures that it holds."""
        return len(self.contained or b"") + len((self.kept or {}).get("bytes") or b"")


class Source:
    """The finished shards of the output at `url`, in input order.

    Raises:
        UsageError: there is no finished shard, or run.json can't be read.
        StorageError: the store failed, or a file is missing or damaged.
    """

    def __init__(self, url: str, options: Mapping[str, Any] | None = None) -> None:
        self._dataset = open_dataset(url, options)
        self.store = held(self._dataset.store)  # the gallery writes to it
        record = read_manifest(self.store)
        self.footprint = record.footprint
        expected = record.expected()
        self.name = self.store.url.rpartition("/")[2]
        self.model = expected.model
        self.model_hash = expected.model_hash
        self.fields = expected.fields
        self.extension = EXTENSIONS[expected.image_format]
        self._record = record
        given = frozenset(path for path in record.settings.values() if isinstance(path, str))
        self._reader = PictureReader(("image",), options or {}, given=given)

    def rows(self) -> Iterator[SourceRow]:
        """All rows, including failed ones. Holds the metadata of one shard and one picture at a time."""
        for shard in self._dataset.stored_shards():
            contained = None if isinstance(shard, StoredFiles) else shard.images()
            rows = python_rows(self._dataset.metadata_of(shard))
            for values, kept in zip(rows, shard.kept_pictures(), strict=True):
                image = next_image(contained, shard) if values["status"] == "ok" and contained else None
                yield SourceRow(values, image, kept.get("input_image"))

    def input(self, row: SourceRow) -> Image.Image | None:
        """The row's input picture, if it is kept or still exists unchanged."""
        digest = row.values.get("input_image_sha256")
        cell = row.kept or row.values.get("input_image")
        if not digest or not cell:
            return None
        try:
            picture = self._reader.picture(cell, row_folder(row.values, self._record))
            return picture.load() if picture.key == digest else None
        except PictureError:
            return None

    def image(self, row: SourceRow) -> Image.Image | None:
        """The row's picture; None if the row failed. Raises `StorageError` if it does not decode."""
        values = row.values
        if values["status"] != "ok":
            return None
        data = row.contained if row.contained is not None else self.store.read(values["file_name"])
        try:
            return decoded(data, (values["width"], values["height"]))
        except ValueError as exc:
            raise StorageError(f"{self.store.url}: image {values['key']} {exc}") from exc
