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
from sdbatch.storage import Store, StoredFile

__all__ = ["InputFile", "list_inputs"]

READERS = 32  # footers read at a time


@dataclass(frozen=True)
class InputFile:
    """One file of the prompt table.

    Attributes:
        path: absolute path or URL.
        size: bytes.
        stamp: changes when the content does: an etag, else the time of change.
        rows: rows in the file.
        row_groups: rows in each of its row groups; a row group can only be decoded from its beginning.
        format: "parquet", or "prompt" for a prompt that was given itself; its `path` are then its words.
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
    """The files that `prompts` names, in the order of their names: a file, a folder's own files, or a glob's
    matches. A prompt in the place of a path (`single.is_prompt`) is a table of one row.

    Files whose names begin with a dot or an underscore are not part of a table, as in Spark and Hive; nor
    are, in a folder, files of other types.

    Raises:
        InputError: nothing found, or a file that is not Parquet, or cut short; names the file.
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
    if len(found) == 1 and found[0].path == store.url:
        chosen = found
    else:
        chosen = [file for file in found if _belongs(file.path)]
    if not chosen:
        raise InputError(
            f"{store.url}: no Parquet files in it; "
            f"name the files of deeper folders by a glob, like {store.url}/**/*.parquet"
        )
    with ThreadPoolExecutor(READERS) as pool:
        files = list(pool.map(lambda file: _describe(file, options or {}), chosen))
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


def _belongs(path: str) -> bool:
    name = path.rpartition("/")[2]
    return name.lower().endswith((".parquet", ".pq")) and not name.startswith((".", "_"))


def _describe(file: StoredFile, options: Mapping[str, Any]) -> InputFile:
    with opened_parquet(Store(file.path, options), "", InputError) as parquet:
        footer = parquet.metadata
        groups = tuple(footer.row_group(i).num_rows for i in range(footer.num_row_groups))
        return InputFile(
            path=file.path,
            size=file.size,
            stamp=file.stamp,
            rows=sum(groups),
            row_groups=groups,
            format="parquet",
            schema=parquet.schema_arrow,
        )
