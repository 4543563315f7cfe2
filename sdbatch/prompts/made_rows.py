"""The images of an output as rows of a table: the picture, prompt, negative prompt, seed, and all other columns."""

from __future__ import annotations

import tarfile
from collections.abc import Collection, Iterator, Mapping
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from sdbatch.errors import InputError
from sdbatch.prompts.input_file import InputFile
from sdbatch.prompts.kept_pictures import image_type, kept_types, path_schema, with_paths, without_bytes
from sdbatch.storage.parquet import opened_parquet
from sdbatch.storage.store import Store

__all__ = ["FORMAT", "made_batches", "made_schema"]

FORMAT = "output"
# The columns that are settings of the rows; all others are carried with the prefix `input_`.
SETTINGS = ("prompt", "negative_prompt", "seed")
IMAGE = pa.field("image", image_type)
ROWS_AT_ONCE = 16  # with pictures, in layout `parquet`


def made_schema(metadata: pa.Schema, whole: Collection[str] = ()) -> pa.Schema:
    """The columns of the table, from the columns of an output's shards.

    Args:
        whole: columns whose kept input pictures are read whole; for others only the path.
    """
    names = _sources(metadata)
    metadata = path_schema(metadata, _reduced(metadata, whole))
    fields = [metadata.field(_place(metadata, old)).with_name(new) for new, old in names.items()]
    return pa.schema([pa.field("image", pa.string()) if _has_files(metadata) else IMAGE, *fields])


def made_batches(
    file: InputFile, needed: list[str], options: Mapping[str, Any] | None, content: bytes | None = None
) -> Iterator[pa.RecordBatch]:
    """The needed columns of a shard's images, in order; failed ones are left out.

    Raises:
        InputError: the shard is damaged.
        StorageError: the store failed.
    """
    with opened_parquet(Store(file.path, options), "", InputError, content=content) as parquet:
        metadata = parquet.schema_arrow
        _refuse_other_columns(metadata, file)
        sources = _sources(metadata)
        read = {name: sources[name] for name in needed if name != "image"}
        has_image, in_tar = "image" in needed, False
        if has_image:
            in_tar = not _has_files(metadata) and not _holds_pictures(metadata)
            read["image"] = "key" if in_tar else "file_name" if _has_files(metadata) else "image"
        columns = list(dict.fromkeys(["status", *read.values()]))
        kinds = kept_types(metadata).values()
        reduced = _reduced(metadata, [field.name for field in file.schema if field.type in kinds])
        parts = without_bytes(parquet, columns, reduced)
        pictures = _in_tar(file, options) if in_tar else iter(())
        for batch in parquet.iter_batches(ROWS_AT_ONCE, columns=parts, use_threads=False):
            made = with_paths(batch.select(columns).filter(pc.equal(batch.column("status"), "ok")), reduced)
            found = {new: made.column(columns.index(old)) for new, old in read.items()}
            if in_tar:
                found["image"] = _matched(file, found["image"].to_pylist(), pictures)
            yield pa.RecordBatch.from_arrays([found[name] for name in needed], names=needed)


def _refuse_other_columns(metadata: pa.Schema, file: InputFile) -> None:
    """Raises `InputError` if a shard's columns differ from those of the output's first shard."""
    names = metadata.names
    own = names[names.index("key") :] if "key" in names else []
    found = {"image", *_sources(metadata)} if "status" in own else set()
    repeated = [name for name in own if names.count(name) > 1 and name != "image"]
    if odd := [*repeated, *sorted(found ^ {*file.own_schema.names})]:
        raise InputError(f"{file.path}: has other columns than the rest of its output ({odd[0]!r})")


def _sources(metadata: pa.Schema) -> dict[str, str]:
    """The metadata column of each column of the table, except the picture."""
    own = metadata.names.index("key")
    names = [name for at, name in enumerate(metadata.names) if not (name == "image" and at > own)]
    return {name if name in SETTINGS else f"input_{name}": name for name in names}


def _reduced(metadata: pa.Schema, whole: Collection[str]) -> dict[str, pa.DataType]:
    """The columns of kept input pictures of which only the paths are read."""
    return {name: kind for name, kind in kept_types(metadata).items() if f"input_{name}" not in whole}


def _place(metadata: pa.Schema, name: str) -> int:
    return int(metadata.get_all_field_indices(name)[0])


def _has_files(metadata: pa.Schema) -> bool:
    return "file_name" in metadata.names[metadata.names.index("key") :]


def _holds_pictures(metadata: pa.Schema) -> bool:
    return "image" in metadata.names[metadata.names.index("key") :]


def _in_tar(file: InputFile, options: Mapping[str, Any] | None) -> Iterator[tuple[str, bytes]]:
    """Name and content of each picture in a shard of layout `webdataset`."""
    store = Store(file.path.removesuffix(".parquet") + ".tar", options)
    with store.open("") as source:
        try:
            with tarfile.open(fileobj=source, mode="r|") as tar:
                for member in tar:
                    content = tar.extractfile(member) if not member.name.endswith((".txt", ".json")) else None
                    if content is not None:
                        yield member.name, content.read()
        except (tarfile.TarError, EOFError) as exc:
            raise InputError(f"{store.url}: is truncated or damaged ({exc})") from exc


def _matched(file: InputFile, keys: list[str], pictures: Iterator[tuple[str, bytes]]) -> pa.Array:
    found = []
    for key in keys:
        name, content = next(pictures, ("", b""))
        if name.partition(".")[0] != key:
            raise InputError(f"{file.path}: its tar contains {name or 'nothing'!r} instead of image {key}")
        found.append({"bytes": content, "path": name})
    return pa.array(found, IMAGE.type)
