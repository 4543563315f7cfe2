"""The files of a prompt table, and what their footers say."""

from __future__ import annotations

from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any

import pyarrow as pa

from sdbatch.errors import InputError
from sdbatch.parquet import opened_parquet
from sdbatch.prompts import single
from sdbatch.prompts.text import TEXT_FORMATS, common_schema, describe_text
from sdbatch.storage import Store, StoredFile

__all__ = ["InputFile", "list_inputs"]

READERS = 32  # footers read at a time
PARQUET_SUFFIXES = (".parquet", ".pq")


@dataclass(frozen=True)
class InputFile:
    """One file of the prompt table.

    Attributes:
        path: absolute path or URL.
        size: bytes.
        stamp: changes when the content does: an etag, else the time of change.
        rows: rows in the file.
        row_groups: rows in each of its row groups; a row group can only be decoded from its beginning.
        format: "parquet", "csv", "tsv", "jsonl" or "txt"; or "prompt", of which the path is the prompt itself.
        schema: its columns.
    """

    path: str
    size: int
    stamp: str
    rows: int
    row_groups: tuple[int, ...]
    format: str
    schema: pa.Schema


def list_inputs(prompts: str, options: Mapping[str, Any] | None = None) -> list[InputFile]:
    """The files that `prompts` names, by name: one file, a folder's own files, or a glob's matches.

    A prompt in the place of a path (`single.is_prompt`) is a table of one row.

    Files whose names begin with a dot or an underscore are not part of a table, as in Spark and Hive; nor, among
    several, are those of other types, and those of text where there is Parquet. A file of no known type that is named
    by itself is taken for Parquet.

    Raises:
        InputError: nothing found, types mixed, or a file that is not what its name says, or cut short; names the file.
        StorageError: the store refuses.
    """
    if isinstance(prompts, str) and single.is_prompt(prompts):
        return [_prompt_itself(prompts)]
    store = Store(prompts, options)
    found = store.files()
    if not found:
        raise InputError(
            f"{store.url}: there is no such file, and no folder or glob with files in it "
            "(a prompt in its place needs at least two words, and no file's ending)"
        )
    alone = len(found) == 1 and found[0].path == store.url
    kind, chosen = (_kind(store.url) or "parquet", found) if alone else _of_one_kind(store.url, found)
    with ThreadPoolExecutor(READERS) as pool:
        files = list(pool.map(lambda file: _describe(file, kind, options), chosen))
    if kind == "jsonl":
        schema = common_schema([file.schema for file in files])
        return [replace(file, schema=schema) for file in files]
    # Footers of equal tables are equal: keep one schema object, so that a plan of 1,000 files stays small.
    schemas: dict[bytes, pa.Schema] = {}
    return [
        replace(file, schema=schemas.setdefault(file.schema.serialize().to_pybytes(), file.schema)) for file in files
    ]


def _prompt_itself(text: str) -> InputFile:
    size = len(text.encode())
    return InputFile(
        path=text, size=size, stamp="", rows=1, row_groups=(1,), format=single.FORMAT, schema=single.SCHEMA
    )


def _of_one_kind(url: str, found: list[StoredFile]) -> tuple[str, list[StoredFile]]:
    by_kind: dict[str, list[StoredFile]] = {}
    for file in found:
        kind = _kind(file.path)
        if kind and not file.path.rpartition("/")[2].startswith((".", "_")):
            by_kind.setdefault(kind, []).append(file)
    if not by_kind:
        raise InputError(f"{url}: no prompt table in it; those of deeper folders go by a glob, like {url}/**/*.parquet")
    if "parquet" in by_kind:
        return "parquet", by_kind["parquet"]
    if len(by_kind) > 1:
        raise InputError(f"{url}: holds {' and '.join(sorted(by_kind))} files; name those you mean by a glob")
    return by_kind.popitem()


def _kind(path: str) -> str | None:
    suffix = "." + path.lower().rpartition(".")[2]
    return "parquet" if suffix in PARQUET_SUFFIXES else TEXT_FORMATS.get(suffix)


def _describe(file: StoredFile, kind: str, options: Mapping[str, Any] | None) -> InputFile:
    if kind == "parquet":
        with opened_parquet(Store(file.path, options), "", InputError) as parquet:
            footer, schema = parquet.metadata, parquet.schema_arrow
        groups = tuple(footer.row_group(i).num_rows for i in range(footer.num_row_groups))
        if min(groups, default=0) < 0 or sum(groups) != footer.num_rows:
            raise InputError(f"{file.path}: is damaged (its row groups have not the rows that it says it has)")
    else:
        rows, schema = describe_text(file.path, kind, options)
        groups = (rows,)
    return InputFile(file.path, file.size, file.stamp, sum(groups), groups, kind, schema)
