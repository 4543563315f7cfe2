"""Reads a finished shard of any layout."""

from __future__ import annotations

import re
import tarfile
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from functools import cached_property
from itertools import repeat
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from sdbatch.diffusion.request import FIRST_FIELDS
from sdbatch.errors import StorageError
from sdbatch.output.json_rows import python_rows, to_json
from sdbatch.output.keys import EXTENSIONS, shard_name
from sdbatch.output.metadata import FOLDER_METADATA, check_schema, folder_table
from sdbatch.prompts.kept_pictures import image_type, kept_types, path_schema, with_paths, without_bytes
from sdbatch.settings import MAX_IMAGES_PER_SHARD
from sdbatch.storage.parquet import opened_parquet
from sdbatch.storage.store import Store

__all__ = ["StoredFiles", "StoredParquet", "StoredShard", "StoredWebDataset", "open_shard"]

KEY = re.compile(r"\d{9,}")
BATCH_ROWS = 64
ROWS_WITH_PICTURES = 4
MAX_METADATA_BYTES = 2 << 30
MAX_IMAGE_BYTES = 1 << 30
NEEDED_IF_MADE = (*(field.name for field in FIRST_FIELDS), "model")


def open_shard(store: Store, shard: int) -> StoredShard:
    """Open a finished shard; its metadata's columns show the layout. Raises `StorageError`."""
    with opened_parquet(store, f"{shard_name(shard)}.parquet", StorageError) as parquet:
        names = parquet.schema_arrow.names
    # The table's columns, which may have the same names, come before `key`; sdbatch's own come after.
    own = names[names.index("key") :] if "key" in names else []
    if "image" in own:
        return StoredParquet(store, shard)
    return StoredFiles(store, shard) if "file_name" in own else StoredWebDataset(store, shard)


class StoredShard(ABC):
    """A shard in the output folder. Raises `StorageError` if a file is missing or damaged."""

    picture_columns: frozenset[str] = frozenset()  # columns of the metadata file that hold the pictures themselves

    def __init__(self, store: Store, shard: int) -> None:
        self.store, self.shard, self.name = store, shard, shard_name(shard)

    @property
    def metadata(self) -> pa.Table:
        """The shard's metadata, without the pictures of layout `parquet`; of kept input pictures only the paths."""
        return self._metadata_and_kept[0]

    @cached_property
    def _metadata_and_kept(self) -> tuple[pa.Table, list[str]]:
        """The metadata, and its columns of kept input pictures."""
        with self._parquet() as parquet:
            if parquet.metadata.num_rows > MAX_IMAGES_PER_SHARD:
                raise ValueError(f"has {parquet.metadata.num_rows:,} rows, more than a shard can have")
            check_schema(parquet.schema_arrow)
            names = [name for name in parquet.schema_arrow.names if name not in self.picture_columns]
            kept = kept_types(parquet.schema_arrow)
            # In this thread: an Arrow thread that is still running when Python ends would abort the process.
            batches = _bounded(
                parquet.iter_batches(BATCH_ROWS, columns=without_bytes(parquet, names, kept), use_threads=False)
            )
            schema = parquet.schema_arrow.empty_table().select(names).schema
            plain = (with_paths(batch.select(names), kept) for batch in batches)
            table = pa.Table.from_batches(plain, path_schema(schema, kept))
            _check_rows(table, self.name)
            return table, list(kept)

    def kept_pictures(self) -> Iterator[dict[str, Any]]:
        """The input pictures of each row of `metadata`, by column: mappings of bytes and path, or lists of them.

        The mappings are empty if the output keeps no input pictures.
        """
        metadata, kept = self._metadata_and_kept
        if not kept:
            yield from repeat({}, metadata.num_rows)
            return
        with self._parquet() as parquet:
            for batch in parquet.iter_batches(ROWS_WITH_PICTURES, columns=kept, use_threads=False):
                yield from batch.select(kept).to_pylist()

    @cached_property
    def made(self) -> pa.Table:
        """The metadata of the images that were made."""
        return self.metadata.filter(pc.equal(self.metadata.column("status"), "ok"))

    @abstractmethod
    def images(self) -> Iterator[bytes]:
        """The image file of each row of `made`."""

    @abstractmethod
    def files(self) -> Iterator[tuple[str, bytes]]:
        """Name and content of every file in the place of the shard's images, also of unexpected ones."""

    def companions(self) -> set[str]:
        """Names of the files beside the images."""
        return set()

    def matches(self, name: str, data: bytes) -> bool:
        """Whether a companion's content agrees with the metadata."""
        raise KeyError(name)

    @contextmanager
    def _parquet(self) -> Iterator[pq.ParquetFile]:
        """Open the shard's Parquet file; a `ValueError` in the block becomes a `StorageError` that names it."""
        name = f"{self.name}.parquet"
        with opened_parquet(self.store, name, StorageError) as parquet:
            try:
                yield parquet
            except pa.ArrowException:
                raise
            except (ValueError, KeyError, OverflowError) as exc:
                raise StorageError(f"{self.store.name(name)}: {exc}") from exc


class StoredFiles(StoredShard):
    """Layout `files`."""

    def images(self) -> Iterator[bytes]:
        return self.store.read_many(self._names())

    def files(self) -> Iterator[tuple[str, bytes]]:
        names = sorted(self.store.entries(self.name))
        if folders := [name for name in names if name.endswith("/")]:
            raise StorageError(f"{self.store.name(self.name)}/{folders[0]}: does not belong there")
        return zip(names, self.store.read_many(f"{self.name}/{name}" for name in names), strict=True)

    def companions(self) -> set[str]:
        return {FOLDER_METADATA} if self.made.num_rows else set()

    def _names(self) -> list[str]:
        """The images' files; `_check_rows` refuses a made row without one."""
        return [name for name in _texts(self.made.column("file_name")) if name is not None]

    def matches(self, name: str, data: bytes) -> bool:
        files = [name.rpartition("/")[2] for name in self._names()]
        try:
            # Threads of Arrow that still hold a file of Python's when the interpreter ends would abort the process.
            return pq.ParquetFile(pa.BufferReader(data)).read(use_threads=False).equals(folder_table(self.made, files))
        except (pa.ArrowException, OSError):
            return False


class StoredParquet(StoredShard):
    """Layout `parquet`."""

    picture_columns = frozenset({"image"})

    def images(self) -> Iterator[bytes]:
        return _by_key(self, self.files())

    def files(self) -> Iterator[tuple[str, bytes]]:
        with self._parquet() as parquet:
            held = parquet.schema_arrow.field("image").type
            if held != image_type:
                raise ValueError(f"column 'image' holds {held}; expected {image_type}")
            for batch in parquet.iter_batches(1, columns=["image"], use_threads=False):
                for image in batch.column(0):
                    if image.is_valid:
                        yield str(image["path"].as_py()), image["bytes"].as_py() or b""


class StoredWebDataset(StoredShard):
    """Layout `webdataset`."""

    def images(self) -> Iterator[bytes]:
        return _by_key(self, (item for item in self.files() if not item[0].endswith((".txt", ".json"))))

    def files(self) -> Iterator[tuple[str, bytes]]:
        name = f"{self.name}.tar"
        with self.store.open(name) as file:
            try:
                with tarfile.open(fileobj=file, mode="r|") as tar:
                    for member in tar:
                        # A sparse file of a kilobyte can claim gigabytes.
                        if not member.isreg() or member.issparse() or member.size > MAX_IMAGE_BYTES:
                            raise ValueError(f"{member.name!r} is not a file of a shard")
                        content = tar.extractfile(member)
                        yield member.name, content.read() if content else b""
            except (tarfile.TarError, ValueError, OverflowError, EOFError, RecursionError) as exc:
                raise StorageError(f"{self.store.name(name)}: is truncated or damaged ({exc})") from exc

    def companions(self) -> set[str]:
        return {f"{key}.{extension}" for key in self._rows for extension in ("txt", "json")}

    def matches(self, name: str, data: bytes) -> bool:
        key, _, extension = name.partition(".")
        row = self._rows[key]
        return data == (row["prompt"].encode() if extension == "txt" else to_json(row))

    @cached_property
    def _rows(self) -> dict[str, dict[str, Any]]:
        return {row["key"]: row for row in python_rows(self.made)}


def _by_key(shard: StoredShard, files: Iterable[tuple[str, bytes]]) -> Iterator[bytes]:
    """The contents of the files, which must be the made images, in order."""
    keys = iter(_texts(shard.made.column("key")))
    for name, data in files:
        key = next(keys, None)
        if name.partition(".")[0] != key:
            raise StorageError(f"{shard.store.name(shard.name)}: holds {name!r} where image {key} is expected")
        yield data
    if next(keys, None) is not None:
        raise StorageError(f"{shard.store.name(shard.name)}: has fewer images than its metadata")


def _bounded(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    size = 0
    for batch in batches:
        size += batch.nbytes
        if size > MAX_METADATA_BYTES:
            raise ValueError(f"its rows hold more than {MAX_METADATA_BYTES >> 30} GB")
        yield batch


def _check_rows(table: pa.Table, shard: str) -> None:
    """Check the values that readers use as paths and texts. Raises `ValueError`."""
    statuses = _texts(table.column("status"))
    for row, (key, status) in enumerate(zip(_texts(table.column("key")), statuses, strict=True)):
        if key is None or not KEY.fullmatch(key) or key[:-4] != shard:
            raise ValueError(f"row {row}: {key!r} is not a key of this shard")
        if status not in ("ok", "failed"):
            raise ValueError(f"row {row}: status is {status!r}")
    # The table's own columns, which may have the same names, come before `key`.
    if "file_name" in table.column_names[table.column_names.index("key") :]:
        _check_file_names(table, shard)
    for name in NEEDED_IF_MADE:
        for row, (value, status) in enumerate(zip(table.column(name), statuses, strict=True)):
            if status == "ok" and not value.is_valid:
                raise ValueError(f"row {row}: is ok and has no {name}")


def _check_file_names(table: pa.Table, shard: str) -> None:
    """Check that an image of layout `files` is in its shard's folder and named by its key."""
    columns = (_texts(table.column(name)) for name in ("key", "status", "file_name"))
    for row, (key, status, name) in enumerate(zip(*columns, strict=True)):
        own = {f"{shard}/{key}{extension}" for extension in EXTENSIONS.values()}
        if name not in own and (status == "ok" or name is not None):
            raise ValueError(f"row {row}: {name!r} is not the file of image {key}")


def _texts(column: pa.ChunkedArray) -> list[str | None]:
    return [row["text"] for row in python_rows(pa.table({"text": column}))]
