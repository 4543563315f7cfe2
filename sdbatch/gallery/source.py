"""Rows of a dataset with their pictures, whatever the layout."""

from __future__ import annotations

import json
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import fsspec
import pyarrow.parquet as pq

__all__ = ["Source", "SourceRow"]


@dataclass(frozen=True, slots=True)
class SourceRow:
    """One row: its metadata, and the bytes of its image file where its shard holds it."""

    values: dict[str, Any]
    image: bytes | None


class Source:
    """A dataset at `url`, read shard by shard."""

    def __init__(self, url: str, options: dict[str, Any] | None = None) -> None:
        self.fs, self.root = fsspec.core.url_to_fs(url, **(options or {}))
        self.name = self.root.rstrip("/").rpartition("/")[2]
        self.model = json.loads(self.fs.cat_file(f"{self.root}/run.json"))["model"]

    def rows(self) -> Iterator[SourceRow]:
        for path in sorted(self.fs.glob(f"{self.root}/*.parquet")):
            with self.fs.open(path) as file:
                tar = path.removesuffix(".parquet") + ".tar"
                images = self._tar_images(tar) if self.fs.exists(tar) else {}
                for batch in pq.ParquetFile(file).iter_batches(batch_size=64):
                    for values in batch.to_pylist():
                        embedded = values.pop("image", None)
                        yield SourceRow(values, embedded["bytes"] if embedded else images.get(values["key"]))

    def image(self, row: SourceRow) -> bytes | None:
        """The bytes of the row's image file; None if the row failed."""
        if row.image is None and row.values.get("file_name"):
            return self.fs.cat_file(f"{self.root}/{row.values['file_name']}")
        return row.image

    def _tar_images(self, path: str) -> dict[str, bytes]:
        images = {}
        with self.fs.open(path) as file, tarfile.open(fileobj=file) as tar:
            for member in tar:
                key, _, kind = member.name.rpartition(".")
                if kind in ("png", "jpg", "jpeg", "webp"):
                    images[key] = tar.extractfile(member).read()
        return images
