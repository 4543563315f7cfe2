"""Lists the files of a prompt table and reads their footers."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import pyarrow as pa

from sdbatch.errors import InputError
from sdbatch.prompts import single
from sdbatch.prompts.compressed import inner_name
from sdbatch.prompts.contents import SMALL_FILE_BYTES, contents
from sdbatch.prompts.input_file import InputFile
from sdbatch.prompts.partitions import is_partition, partition_columns, partitions_of
from sdbatch.prompts.text import TEXT_FORMATS, common_schema, describe_text
from sdbatch.prompts.text_encodings import UTF8
from sdbatch.prompts.types import plain_schema
from sdbatch.storage.parquet import opened_parquet
from sdbatch.storage.store import GLOB_CHARACTERS, Listing, Store, StoredFile

__all__ = ["InputFile", "list_inputs"]

READERS = 32  # footers read at a time
NO_FILE = "is a pipe, a device, or a broken link; write the table into a file"
PARQUET_SUFFIXES = (".parquet", ".pq")


def list_inputs(prompts: str, options: Mapping[str, Any] | None = None) -> list[InputFile]:
    """The files of the table `prompts`, sorted by path: one file, a folder's own files, or a glob's matches.

    A prompt instead of a path (`single.is_prompt`) is a table of one row.

    As in Spark and Hive, files whose names begin with a dot or an underscore are not part of a table. Among several
    files, those of other types are ignored, as well as text beside Parquet, compressed files beside others, and `.json`
    beside a table. A single file of unknown type is read as Parquet.

    Hive partitions, folders named `key=value`, are columns. A folder or a glob without tables includes the files of its
    partitions, at any depth. A file's partitions are the unbroken run of such folders directly above it; for the files
    of a folder, only those below that folder.

    Raises:
        InputError: nothing was found, types are mixed, a file is truncated or not what its name says, tables and
            partitions are in one folder, files differ in their partitions, or a file has a column named like its
            partition; the message names the file.
        StorageError: the store failed.
    """
    if isinstance(prompts, str) and single.is_prompt(prompts):
        return [_prompt_itself(prompts)]
    store = Store(prompts, options)
    listed = store.listing()
    below = store.url if listed.is_folder else None
    found = _with_partitions(listed, below, options)
    if not found and listed.others:
        raise InputError(f"{listed.others[0]}: {NO_FILE}")
    if not found:
        raise InputError(
            f"{store.url}: there is no such file, and no folder or glob with files in it "
            "(a prompt in its place needs at least two words, and no file's ending)"
        )
    alone = len(found) == 1 and found[0].path == store.url
    kind, chosen = (_kind(store.url) or "parquet", found) if alone else _of_one_kind(store.url, found)
    base = store.url if listed.is_folder else _fixed_part(store.url, alone)
    files = [replace(file, name=_below(base, file.path)) for file in _described(chosen, kind, options)]
    if kind in ("jsonl", "json"):
        try:
            schema = common_schema([file.schema for file in files])
        except pa.ArrowException as exc:
            raise InputError(f"{store.url}: its files do not form one table ({exc})") from exc
        return _partitioned([replace(file, schema=schema) for file in files], below)
    return _partitioned(files, below)


def _fixed_part(url: str, alone: bool) -> str:
    """The folder of a file or the fixed part of a glob, above any partitions."""
    place = len(url) if alone else min((url.find(c) for c in GLOB_CHARACTERS if c in url), default=len(url))
    folder = url[:place].rpartition("/")[0]
    while is_partition(folder.rpartition("/")[2]):
        folder = folder.rpartition("/")[0]
    return folder


def _below(base: str, path: str) -> str:
    """The path of a file below `base`, without a URL's parameters."""
    if path.startswith(("http://", "https://")):
        path = path.partition("?")[0]
    below = path.removeprefix(base.rstrip("/") + "/")
    return below if below != path else path.rpartition("/")[2]


def _with_partitions(listed: Listing, below: str | None, options: Mapping[str, Any] | None) -> list[StoredFile]:
    """The listed files, and those in partitions beside them, level by level."""
    found: dict[str, StoredFile] = {}
    level = [listed]
    with ThreadPoolExecutor(READERS) as pool:
        while level:
            found.update((file.path, file) for listing in level for file in listing.files)
            for path in (path for listing in level for path in listing.others if _is_table(path)):
                raise InputError(f"{path}: {NO_FILE}")
            folders = [folder for listing in level for folder in _partition_folders(listing, below)]
            level = list(pool.map(lambda folder: Store(folder, options).listing(), folders))
    return sorted(found.values(), key=lambda file: file.path)


def _partition_folders(listing: Listing, below: str | None) -> list[str]:
    names = {folder: folder.rpartition("/")[2] for folder in listing.folders}
    folders = [folder for folder, name in names.items() if is_partition(name) and not name.startswith((".", "_"))]
    files = (file.path for file in listing.files if _is_table(file.path))
    tables = [path for path in files if _kind(path) != "json" and inner_name(path) == path]
    if folders and tables and listing.is_folder:
        raise InputError(
            f"{tables[0]}: lies beside the partition {folders[0]}; "
            "a folder holds tables or partitions, not both: select files with a glob"
        )
    for folder in folders:
        partitions_of(f"{folder}/", below)  # a link to a parent folder would never end, but repeats a key
    return [] if tables else folders  # a glob means the files that it matches


def _partitioned(files: list[InputFile], below: str | None) -> list[InputFile]:
    """The files, with the columns of their partitions."""
    added, values = partition_columns([file.path for file in files], below)
    if not added.names:
        return files
    whole: dict[int, pa.Schema] = {}  # by the identity of the original schema: equal schemas stay one object
    for file in files:
        if id(file.schema) not in whole:
            if both := [name for name in added.names if name in file.schema.names]:
                raise InputError(f"{file.path}: has a column {both[0]!r}, but is also in a partition with that key")
            whole[id(file.schema)] = pa.schema([*file.schema, *added], file.schema.metadata)
    return [
        replace(file, schema=whole[id(file.schema)], partitions=partitions)
        for file, partitions in zip(files, values, strict=True)
    ]


def _prompt_itself(text: str) -> InputFile:
    size = len(text.encode())
    return InputFile(
        path=text, size=size, stamp="", rows=1, row_groups=(1,), format=single.FORMAT, schema=single.SCHEMA
    )


def _of_one_kind(url: str, found: list[StoredFile]) -> tuple[str, list[StoredFile]]:
    by_kind: dict[str, list[StoredFile]] = {}
    for file in found:
        if _is_table(file.path):
            by_kind.setdefault(_kind(file.path), []).append(file)
    if not by_kind:
        raise InputError(
            f"{url}: no prompt table in it; select those in subfolders with a glob, like {url}/**/*.parquet"
        )
    if "parquet" in by_kind:
        return "parquet", by_kind["parquet"]
    # Files beside a table are ignored although they could be read: a compressed copy, a list of settings.
    plain = {kind: [file for file in files if inner_name(file.path) == file.path] for kind, files in by_kind.items()}
    by_kind = {kind: files for kind, files in plain.items() if files} or by_kind
    if len(by_kind) > 1:
        by_kind.pop("json", None)
    if len(by_kind) > 1:
        raise InputError(f"{url}: holds {' and '.join(sorted(by_kind))} files; select files with a glob")
    return by_kind.popitem()


def _is_table(path: str) -> bool:
    return _kind(path) is not None and not path.rpartition("/")[2].startswith((".", "_"))


def _kind(path: str) -> str | None:
    if path.lower().endswith(PARQUET_SUFFIXES):
        return "parquet"
    return TEXT_FORMATS.get("." + inner_name(path).lower().rpartition(".")[2])


def _described(files: list[StoredFile], kind: str, options: Mapping[str, Any] | None) -> Iterator[InputFile]:
    """Describe the files' contents. Small ones are fetched whole and in parallel; large ones are opened meanwhile."""
    small = [file.path for file in files if len(files) > 1 and 0 < file.size <= SMALL_FILE_BYTES]
    # Equal schemas are kept as one object, so that a plan of many files stays small.
    schemas: dict[bytes, pa.Schema] = {}
    known: set[int] = set()  # only of the schemas kept
    with ThreadPoolExecutor(READERS) as pool:
        are_small = set(small)
        large = pool.map(lambda file: _describe(file, kind, options), [f for f in files if f.path not in are_small])
        found = contents(small, options)
        for file in files:
            one = _describe(file, kind, options, next(found)) if file.path in are_small else next(large)
            if id(one.schema) not in known:
                same = schemas.setdefault(one.schema.serialize().to_pybytes(), one.schema)
                known.add(id(same))
                one = replace(one, schema=same)
            yield one


def _describe(
    file: StoredFile, kind: str, options: Mapping[str, Any] | None, content: bytes | None = None
) -> InputFile:
    encoding = UTF8
    if kind == "parquet":
        with opened_parquet(Store(file.path, options), "", InputError, content=content) as parquet:
            footer, schema = parquet.metadata, plain_schema(parquet.schema_arrow)
        groups = tuple(footer.row_group(i).num_rows for i in range(footer.num_row_groups))
        if min(groups, default=0) < 0 or sum(groups) != footer.num_rows:
            raise InputError(f"{file.path}: is damaged (its row groups and its footer differ in their number of rows)")
    else:
        rows, schema, encoding = describe_text(file.path, kind, options, content)
        groups = (rows,)
    return InputFile(file.path, file.size, file.stamp, sum(groups), groups, kind, schema, encoding)
