"""The layouts on disk: how a shard's pictures and metadata are stored in the output folder.

A new layout is one class here and its entry in `LAYOUTS`.
"""

from __future__ import annotations

import io
import tarfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, BinaryIO, Protocol

import pyarrow as pa
import pyarrow.compute as pc

from sdbatch.output.json_rows import python_rows, to_json
from sdbatch.output.keys import shard_name
from sdbatch.output.metadata import FOLDER_METADATA, folder_table
from sdbatch.storage.parquet import parquet_bytes, write_parquet
from sdbatch.storage.store import Store

__all__ = ["LAYOUTS", "FilesLayout", "Layout", "ParquetLayout", "WebDatasetLayout", "webdataset_tar"]

Pictures = Mapping[str, Sequence[Any]]
"""Columns of pictures: of each image a mapping of bytes and path, a list of these, or None."""
GROUP_BYTES = 32 << 20
GROUP_ROWS = 1000


class Layout(Protocol):
    """Writes one shard. `add` is called once per image, from any thread; `finish` once, at the end."""

    def __init__(self, store: Store, shard: int, extension: str) -> None: ...

    def add(self, key: str, data: bytes) -> None:
        """Takes an image file."""

    def drop(self, key: str) -> None:
        """Remove what an earlier attempt at the shard may have left of an image that has now failed."""

    def columns(self, made: Mapping[str, bool]) -> Mapping[str, list[str | None]]:
        """The layout's own string columns of the metadata; `made` says for each key whether it has an image."""

    def finish(self, metadata: pa.Table, schema: pa.Schema, kept: Pictures) -> None:
        """Write what is not written yet, the metadata last, with the input pictures that it keeps."""


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

    def finish(self, metadata: pa.Table, schema: pa.Schema, kept: Pictures) -> None:
        ok = metadata.filter(_is_ok(metadata))
        if ok.num_rows:
            names = [f"{key}{self._extension}" for key in ok.column("key").to_pylist()]
            self._store.write(f"{self._name}/{FOLDER_METADATA}", parquet_bytes(folder_table(ok, names)))
        _write_metadata(self._store, self._name, metadata, schema, kept)

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

    def finish(self, metadata: pa.Table, schema: pa.Schema, kept: Pictures) -> None:
        images = [
            {"bytes": self._held[key], "path": f"{key}{self._extension}"} if key in self._held else None
            for key in metadata.column("key").to_pylist()
        ]
        _write_metadata(self._store, self._name, metadata, schema, {"image": images, **kept})


class WebDatasetLayout(_HeldLayout):
    """`NNNNN.tar` with image, `.txt` (prompt) and `.json` (row); failed rows only in `NNNNN.parquet`."""

    def finish(self, metadata: pa.Table, schema: pa.Schema, kept: Pictures) -> None:
        ok = metadata.filter(_is_ok(metadata))

        def produce(file: BinaryIO) -> None:
            webdataset_tar(file, ((row, self._held[row["key"]]) for row in python_rows(ok)), self._extension)

        self._store.write_stream(f"{self._name}.tar", produce)
        _write_metadata(self._store, self._name, metadata, schema, kept)


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


def _write_metadata(store: Store, name: str, metadata: pa.Table, schema: pa.Schema, pictures: Pictures) -> None:
    """Write `NNNNN.parquet`; with pictures as a stream of row groups of a few megabytes."""
    if not pictures:
        store.write(f"{name}.parquet", parquet_bytes(metadata.cast(schema)))
        return

    def produce(file: BinaryIO) -> None:
        groups = (_group(metadata, schema, pictures, *span) for span in _spans(pictures, metadata.num_rows))
        write_parquet(file, schema, groups, pictures)

    store.write_stream(f"{name}.parquet", produce)


def _spans(pictures: Pictures, rows: int) -> Iterator[tuple[int, int]]:
    """The first row and the number of rows of each row group."""
    start, size = 0, 0
    for row in range(rows):
        size += sum(_size(column[row]) for column in pictures.values())
        if row + 1 == rows or size >= GROUP_BYTES or row + 1 - start == GROUP_ROWS:
            yield start, row + 1 - start
            start, size = row + 1, 0


def _size(picture: Any) -> int:
    if isinstance(picture, list):
        return sum(map(_size, picture))
    return len(picture["bytes"] or b"") if picture else 0


def _group(metadata: pa.Table, schema: pa.Schema, pictures: Pictures, start: int, rows: int) -> pa.Table:
    group = metadata.slice(start, rows)
    paths = [name for name in pictures if name in group.column_names]
    group = group.drop_columns(paths)
    for name, column in pictures.items():
        group = group.append_column(name, pa.array(column[start : start + rows], schema.field(name).type))
    return group.select(schema.names).cast(schema)


def _is_ok(metadata: pa.Table) -> pa.ChunkedArray:
    return pc.equal(metadata.column("status"), "ok")


def _append(tar: tarfile.TarFile, name: str, data: bytes) -> None:
    # TarInfo's defaults are what we want: no owner, time 0, mode 0644.
    member = tarfile.TarInfo(name)
    member.size = len(data)
    tar.addfile(member, io.BytesIO(data))
