"""The layouts on disk: how a shard's pictures and metadata are stored in the output folder.

A new layout is one class here and its entry in `LAYOUTS`.
"""

from __future__ import annotations

import io
import tarfile
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, BinaryIO, Protocol

import pyarrow as pa
import pyarrow.compute as pc

from sdbatch.output.json_rows import python_rows, to_json
from sdbatch.output.keys import shard_name
from sdbatch.output.metadata import FOLDER_METADATA, folder_table, image_type
from sdbatch.storage.parquet import parquet_bytes, write_parquet
from sdbatch.storage.store import Store

__all__ = ["LAYOUTS", "FilesLayout", "Layout", "ParquetLayout", "WebDatasetLayout", "webdataset_tar"]


class Layout(Protocol):
    """Writes one shard. `add` is called once per image, from any thread; `finish` once, at the end."""

    def __init__(self, store: Store, shard: int, extension: str) -> None: ...

    def add(self, key: str, data: bytes) -> None:
        """Takes an image file."""

    def drop(self, key: str) -> None:
        """Remove what an earlier attempt at the shard may have left of an image that has now failed."""

    def columns(self, made: Mapping[str, bool]) -> Mapping[str, list[str | None]]:
        """The layout's own string columns of the metadata; `made` says for each key whether it has an image."""

    def finish(self, metadata: pa.Table, schema: pa.Schema) -> None:
        """Write what is not written yet, the metadata last."""


class FilesLayout:
    """`NNNNN/KEY.png`, written at once, with `metadata.parquet` beside it; and `NNNNN.parquet`."""

    def __init__(self, store: Store, shard: int, extension: str) -> None:
        self._store, self._name, self._extension = store, shard_name(shard), extension

    def add(self, key: str, data: bytes) -> None:
        self._store.write(self._file(key), data)

    def drop(self, key: str) -> None:
        self._store.remove(self._file(key))

    def columns(self, made: Mapping[str, bool]) -> Mapping[str, list[str | None]]:
        return {"file_name": [self._file(key) if ok else None for key, ok in made.items()]}

    def finish(self, metadata: pa.Table, schema: pa.Schema) -> None:
        ok = metadata.filter(_is_ok(metadata))
        if ok.num_rows:
            names = [f"{key}{self._extension}" for key in ok.column("key").to_pylist()]
            self._store.write(f"{self._name}/{FOLDER_METADATA}", parquet_bytes(folder_table(ok, names)))
        self._store.write(f"{self._name}.parquet", parquet_bytes(metadata.cast(schema)))

    def _file(self, key: str) -> str:
        return f"{self._name}/{key}{self._extension}"


class _HeldLayout:
    """Holds a shard's image files until they are written as one file."""

    def __init__(self, store: Store, shard: int, extension: str) -> None:
        self._store, self._name, self._extension = store, shard_name(shard), extension
        self._held: dict[str, bytes] = {}

    def add(self, key: str, data: bytes) -> None:
        self._held[key] = data

    def drop(self, key: str) -> None:
        """Nothing to do: an earlier attempt's file is overwritten whole."""

    def columns(self, made: Mapping[str, bool]) -> Mapping[str, list[str | None]]:
        return {}


class ParquetLayout(_HeldLayout):
    """`NNNNN.parquet` with the image files in its column `image`."""

    GROUP_BYTES = 32 << 20
    GROUP_ROWS = 1000

    def finish(self, metadata: pa.Table, schema: pa.Schema) -> None:
        def produce(file: BinaryIO) -> None:
            write_parquet(file, schema, self._groups(metadata, schema))

        self._store.write_stream(f"{self._name}.parquet", produce)

    def _groups(self, metadata: pa.Table, schema: pa.Schema) -> Iterator[pa.Table]:
        keys = metadata.column("key").to_pylist()
        start, size = 0, 0
        for row, key in enumerate(keys):
            size += len(self._held.get(key, b""))
            if row + 1 == len(keys) or size >= self.GROUP_BYTES or row + 1 - start == self.GROUP_ROWS:
                yield self._group(metadata.slice(start, row + 1 - start), keys[start : row + 1], schema)
                start, size = row + 1, 0

    def _group(self, metadata: pa.Table, keys: list[str], schema: pa.Schema) -> pa.Table:
        images = [
            {"bytes": self._held[key], "path": f"{key}{self._extension}"} if key in self._held else None for key in keys
        ]
        with_images = metadata.append_column("image", pa.array(images, image_type))
        return with_images.select(schema.names).cast(schema)


class WebDatasetLayout(_HeldLayout):
    """`NNNNN.tar` with image, `.txt` (prompt) and `.json` (row); failed rows only in `NNNNN.parquet`."""

    def finish(self, metadata: pa.Table, schema: pa.Schema) -> None:
        ok = metadata.filter(_is_ok(metadata))

        def produce(file: BinaryIO) -> None:
            webdataset_tar(file, ((row, self._held[row["key"]]) for row in python_rows(ok)), self._extension)

        self._store.write_stream(f"{self._name}.tar", produce)
        self._store.write(f"{self._name}.parquet", parquet_bytes(metadata.cast(schema)))


LAYOUTS: Mapping[str, type[Layout]] = {
    "files": FilesLayout,
    "parquet": ParquetLayout,
    "webdataset": WebDatasetLayout,
}


def webdataset_tar(file: BinaryIO, images: Iterable[tuple[Mapping[str, Any], bytes]], extension: str) -> None:
    """Writes a tar of images, each given as its metadata row and its file."""
    with tarfile.open(fileobj=file, mode="w|", format=tarfile.USTAR_FORMAT) as tar:
        for row, data in images:
            key = row["key"]
            _append(tar, f"{key}{extension}", data)
            _append(tar, f"{key}.txt", row["prompt"].encode())
            _append(tar, f"{key}.json", to_json(row))


def _is_ok(metadata: pa.Table) -> pa.ChunkedArray:
    return pc.equal(metadata.column("status"), "ok")


def _append(tar: tarfile.TarFile, name: str, data: bytes) -> None:
    # TarInfo's defaults are what we want: no owner, time 0, mode 0644.
    member = tarfile.TarInfo(name)
    member.size = len(data)
    tar.addfile(member, io.BytesIO(data))
