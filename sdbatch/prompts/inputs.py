"""Lists the files of a prompt table and reads their footers."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from typing import Any

import pyarrow as pa

from sdbatch.errors import InputError
from sdbatch.prompts import single
from sdbatch.prompts.arrow_files import FORMAT as ARROW
from sdbatch.prompts.arrow_files import describe_arrow
from sdbatch.prompts.compressed import inner_name
from sdbatch.prompts.contents import SMALL_FILE_BYTES, contents
from sdbatch.prompts.equal_schemas import EqualSchemas
from sdbatch.prompts.input_file import InputFile
from sdbatch.prompts.json_lines import MIXED, common_schema
from sdbatch.prompts.names import plain
from sdbatch.prompts.partitions import is_partition, partition_columns, partitions_of
from sdbatch.prompts.prompt_files import FORMAT as PROMPT_FILE
from sdbatch.prompts.prompt_files import describe_prompt_file
from sdbatch.prompts.saved_datasets import saved_files
from sdbatch.prompts.table_kinds import is_table, kind_of_file, kind_of_table, left_out, of_one_kind, prompt_files
from sdbatch.prompts.text import describe_text
from sdbatch.prompts.text_encodings import UTF8
from sdbatch.prompts.wide_tables import MAX_COLUMNS, too_wide
from sdbatch.prompts.workbooks import FORMAT as WORKBOOK
from sdbatch.prompts.workbooks import describe_workbook
from sdbatch.storage.parquet import opened_parquet
from sdbatch.storage.store import GLOB_CHARACTERS, Listing, Store, StoredFile

__all__ = ["InputFile", "Inputs", "find_inputs", "list_inputs"]

READERS = 32  # footers read at a time
NO_FILE = "is a pipe, a device, or a broken link; write the table into a file"


@dataclass(frozen=True)
class Inputs:
    """The files of a table, sorted by path, and messages about files beside them that are not read."""

    files: list[InputFile]
    notices: tuple[str, ...] = ()


def list_inputs(prompts: str, options: Mapping[str, Any] | None = None, *, per_file: bool = False) -> list[InputFile]:
    """The files of `find_inputs`. Raises as it does."""
    return find_inputs(prompts, options, per_file=per_file).files


def find_inputs(prompts: str, options: Mapping[str, Any] | None = None, *, per_file: bool = False) -> Inputs:
    """The files of the table `prompts`, sorted by path: one file, a folder's own files, or a glob's matches.

    A prompt instead of a path (`single.is_prompt`) is a table of one row.

    As in Spark and Hive, files whose names begin with a dot or an underscore are not part of a table. Among several
    files, those of other types are left out, as well as text beside Parquet, compressed files beside others, and
    `.json` beside a table; the notices say so. A single file of unknown type is read as Parquet. In a folder saved by
    `datasets`, the files are those that its `state.json` names.

    Hive partitions, folders named `key=value`, are columns. A folder or a glob without tables includes the files of its
    partitions, at any depth. A file's partitions are the unbroken run of such folders directly above it; for the files
    of a folder, only those below that folder.

    Args:
        per_file: each text file is one prompt.

    Raises:
        InputError: nothing was found, types are mixed, a file is truncated or not in the format of its name, tables and
            partitions are in one folder, files differ in their partitions, or a file has a column named like its
            partition; the message names the file.
        StorageError: the store failed.
    """
    if isinstance(prompts, str) and single.is_prompt(prompts):
        if per_file:
            raise InputError("--prompt-per-file: PROMPTS is a prompt itself; name a folder of text files")
        return Inputs([_prompt_itself(prompts)])
    store = Store(prompts, options)
    listed = store.listing()
    below = store.url if listed.is_folder else None
    found = _with_partitions(listed, below, options)
    if not found and listed.others:
        raise InputError(f"{listed.others[0]}: {NO_FILE}")
    if not found and listed.folders:
        raise InputError(
            f"{store.url}: has no files in it; select those in subfolders with a glob, like {store.url}/**/*"
        )
    if not found:
        raise InputError(
            f"{store.url}: there is no such file, and no folder or glob with files in it "
            "(a prompt in its place needs at least two words, and no file's ending)"
        )
    alone = len(found) == 1 and found[0].path == store.url
    kind, chosen, notices = _chosen(store.url, found, listed.is_folder, per_file, options)
    base = store.url if listed.is_folder else _fixed_part(store.url, alone)
    files = list(_described(chosen, _Look(kind, base, options)))
    return Inputs(_partitioned(_of_one_schema(files, kind), below), tuple(notices))


def _chosen(
    url: str, found: list[StoredFile], is_folder: bool, per_file: bool, options: Mapping[str, Any] | None
) -> tuple[str, list[StoredFile], list[str]]:
    """The format of the files to read, these files, and a message about those left out."""
    if per_file:
        files = prompt_files(url, found)
        return PROMPT_FILE, files, left_out(url, found, files)
    if len(found) == 1 and found[0].path == url:
        return kind_of_file(url), found, []
    saved = saved_files(url, found, options) if is_folder else None
    if saved is not None:
        return ARROW, saved, []
    kind, files = of_one_kind(url, found)
    if kind in ("csv", "tsv"):  # Spark writes a partition without rows as an empty file, without a header line
        files = [file for file in files if file.size] or files
        found = [file for file in found if file.size]
    return kind, files, left_out(url, found, files)


def _of_one_schema(files: list[InputFile], kind: str) -> list[InputFile]:
    """Give JSON files one schema, if their types agree: a file shows only the keys and types that it uses."""
    if kind not in ("jsonl", "json"):
        return files
    try:
        schema = common_schema([file.schema for file in files])
    except pa.ArrowException as exc:
        if MIXED in str(exc):
            raise InputError(f"{files[0].path} and the files beside it do not form one table ({exc})") from exc
        return files  # for `unified_schema`
    if len({*map(plain, schema.names)}) < len(schema.names):
        return files
    return [replace(file, schema=schema) for file in files]


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
            for path in (path for listing in level for path in listing.others if is_table(path)):
                raise InputError(f"{path}: {NO_FILE}")
            folders = [folder for listing in level for folder in _partition_folders(listing, below)]
            level = list(pool.map(lambda folder: Store(folder, options).listing(), folders))
    return sorted(found.values(), key=lambda file: file.path)


def _partition_folders(listing: Listing, below: str | None) -> list[str]:
    names = {folder: folder.rpartition("/")[2] for folder in listing.folders}
    folders = [folder for folder, name in names.items() if is_partition(name) and not name.startswith((".", "_"))]
    files = (file.path for file in listing.files if is_table(file.path))
    tables = [path for path in files if kind_of_table(path) != "json" and inner_name(path) == path]
    if folders and tables and listing.is_folder:
        raise InputError(
            f"{tables[0]}: is beside the partition {folders[0]}; "
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
        replace(file, schema=whole[id(file.schema)], partitions={**file.partitions, **partitions})
        for file, partitions in zip(files, values, strict=True)
    ]


def _prompt_itself(text: str) -> InputFile:
    size = len(text.encode())
    return InputFile(
        path=text, size=size, stamp="", rows=1, row_groups=(1,), format=single.FORMAT, schema=single.SCHEMA
    )


def _described(files: list[StoredFile], look: _Look) -> Iterator[InputFile]:
    """Describe the files' contents. Small ones are fetched whole and in parallel; large ones are opened meanwhile."""
    small = [file.path for file in files if len(files) > 1 and 0 < file.size <= SMALL_FILE_BYTES]
    with ThreadPoolExecutor(READERS) as pool:
        are_small = set(small)
        large = pool.map(look.describe, [file for file in files if file.path not in are_small])
        found = contents(small, look.options)
        for file in files:
            yield look.describe(file, next(found)) if file.path in are_small else next(large)


@dataclass(frozen=True)
class _Look:
    """Describes files of one format.

    Attributes:
        base: the folder below which their names begin.
    """

    kind: str
    base: str
    options: Mapping[str, Any] | None
    schemas: EqualSchemas = field(default_factory=EqualSchemas)

    def describe(self, file: StoredFile, content: bytes | None = None) -> InputFile:
        """Describe a file, whose content may have been read already."""
        kind, name, encoding, note = self.kind, _below(self.base, file.path), UTF8, ""
        if kind == PROMPT_FILE:
            return describe_prompt_file(file, name, self.options, content)
        if kind == "parquet":
            groups, schema = self._parquet(file, content)
        elif kind == ARROW:
            groups, schema = describe_arrow(file.path, self.options, content)
        elif kind == WORKBOOK:
            rows, schema, note = describe_workbook(file.path, self.options, content)
            groups = (rows,)
        else:
            rows, schema, encoding, note = describe_text(file.path, kind, self.options, content)
            groups = (rows,)
        return InputFile(
            path=file.path,
            size=file.size,
            stamp=file.stamp,
            rows=sum(groups),
            row_groups=groups,
            format=kind,
            schema=self.schemas.plain(schema),
            encoding=encoding,
            name=name,
            note=note,
        )

    def _parquet(self, file: StoredFile, content: bytes | None) -> tuple[tuple[int, ...], pa.Schema]:
        with opened_parquet(Store(file.path, self.options), "", InputError, content=content) as parquet:
            footer = parquet.metadata
            if footer.num_columns > MAX_COLUMNS:
                raise InputError(f"{file.path}: {too_wide(footer.num_columns)}")
            schema = parquet.schema_arrow
        groups = tuple(footer.row_group(i).num_rows for i in range(footer.num_row_groups))
        if min(groups, default=0) < 0 or sum(groups) != footer.num_rows:
            raise InputError(f"{file.path}: is damaged (its row groups and its footer differ in their number of rows)")
        return groups, schema
