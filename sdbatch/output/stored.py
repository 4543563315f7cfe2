"""Reading a finished shard back, in any layout."""

from __future__ import annotations

import io
import tarfile
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import AbstractContextManager
from functools import cached_property
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from sdbatch.errors import StorageError
from sdbatch.output.json_rows import python_rows, to_json
from sdbatch.output.keys import shard_name
from sdbatch.output.metadata import FOLDER_METADATA, folder_table
from sdbatch.parquet import opened_parquet
from sdbatch.storage import Store

__all__ = ["StoredFiles", "StoredParquet", "StoredShard", "StoredWebDataset", "open_shard"]


def open_shard(store: Store, shard: int) -> StoredShard:
    """A finished shard, of the layout that its metadata's columns show. Raises `StorageError`."""
    with opened_parquet(store, f"{shard_name(shard)}.parquet", StorageError) as parquet:
        names = parquet.schema_arrow.names
    if "image" in names:
        return StoredParquet(store, shard)
    return StoredFiles(store, shard) if "file_name" in names else StoredWebDataset(store, shard)


class StoredShard(ABC):
    """A shard as it lies in the output folder. Raises `StorageError` where a file is missing or damaged."""

    def __init__(self, store: Store, shard: int) -> None:
        self.store, self.shard, self.name = store, shard, shard_name(shard)

    @cached_property
    def metadata(self) -> pa.Table:
        """The shard's metadata, without the pictures of layout `parquet`."""
        with self._parquet() as parquet:
            return parquet.read([name for name in parquet.schema_arrow.names if name != "image"])

    @cached_property
    def made(self) -> pa.Table:
        """The metadata of the images that were made."""
        return self.metadata.filter(pc.equal(self.metadata.column("status"), "ok"))

    @abstractmethod
    def images(self) -> Iterator[bytes]:
        """The image file of each row of `made`."""

    @abstractmethod
    def files(self) -> Iterator[tuple[str, bytes]]:
        """Name and content of every file that lies where the shard's images do, also of one too many."""

    def companions(self) -> set[str]:
        """Names of the files that lie beside the images."""
        return set()

    def matches(self, name: str, data: bytes) -> bool:
        """Whether a companion's content agrees with the metadata."""
        raise KeyError(name)

    def _parquet(self) -> AbstractContextManager[pq.ParquetFile]:
        return opened_parquet(self.store, f"{self.name}.parquet", StorageError)


class StoredFiles(StoredShard):
    """Layout `files`."""

    def images(self) -> Iterator[bytes]:
        return self.store.read_many(self.made.column("file_name").to_pylist())

    def files(self) -> Iterator[tuple[str, bytes]]:
        names = sorted(self.store.entries(self.name))
        return zip(names, self.store.read_many(f"{self.name}/{name}" for name in names), strict=True)

    def companions(self) -> set[str]:
        return {FOLDER_METADATA} if self.made.num_rows else set()

    def matches(self, name: str, data: bytes) -> bool:
        files = [file.rpartition("/")[2] for file in self.made.column("file_name").to_pylist()]
        try:
            return pq.read_table(io.BytesIO(data)).equals(folder_table(self.made, files))
        except (pa.ArrowException, OSError):
            return False


class StoredParquet(StoredShard):
    """Layout `parquet`."""

    def images(self) -> Iterator[bytes]:
        return (data for _, data in self.files())

    def files(self) -> Iterator[tuple[str, bytes]]:
        with self._parquet() as parquet:
            for group in range(parquet.num_row_groups):
                for image in parquet.read_row_group(group, ["image"]).column("image"):
                    if image.is_valid:
                        yield image["path"].as_py(), image["bytes"].as_py()


class StoredWebDataset(StoredShard):
    """Layout `webdataset`."""

    def images(self) -> Iterator[bytes]:
        return (data for name, data in self.files() if not name.endswith((".txt", ".json")))

    def files(self) -> Iterator[tuple[str, bytes]]:
        name = f"{self.name}.tar"
        with self.store.open(name) as file:
            try:
                with tarfile.open(fileobj=file, mode="r|") as tar:
                    for member in tar:
                        content = tar.extractfile(member)
                        yield member.name, content.read() if content else b""
            except tarfile.TarError as exc:
                raise StorageError(f"{self.store.name(name)}: is cut short or damaged ({exc})") from exc

    def companions(self) -> set[str]:
        return {f"{key}.{extension}" for key in self._rows for extension in ("txt", "json")}

    def matches(self, name: str, data: bytes) -> bool:
        key, _, extension = name.partition(".")
        row = self._rows[key]
        return data == (row["prompt"].encode() if extension == "txt" else to_json(row))

    @cached_property
    def _rows(self) -> dict[str, dict[str, Any]]:
        return {row["key"]: row for row in python_rows(self.made)}
