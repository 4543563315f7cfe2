"""Which files are tables, and which of a folder's or a glob's are one table together."""

from __future__ import annotations

from collections.abc import Iterable

from sdbatch.errors import InputError
from sdbatch.prompts.arrow_files import ARROW_SUFFIXES
from sdbatch.prompts.arrow_files import FORMAT as ARROW
from sdbatch.prompts.compressed import inner_name
from sdbatch.prompts.text import TEXT_FORMATS
from sdbatch.prompts.workbooks import FORMAT as WORKBOOK
from sdbatch.prompts.workbooks import WORKBOOK_SUFFIX
from sdbatch.storage.store import StoredFile

__all__ = ["is_table", "kind_of_file", "kind_of_table", "left_out", "of_one_kind", "prompt_files"]

PARQUET_SUFFIXES = (".parquet", ".pq")
FOREIGN_SUFFIXES = (
    ".zip",
    ".7z",
    ".tar",
    ".xls",
    ".xlsm",
    ".xlsb",
    ".ods",
    ".orc",
    ".avro",
    ".pkl",
    ".pickle",
    ".yaml",
)
READ = "Parquet, CSV, TSV, JSON, JSON Lines, .txt, .xlsx and Arrow"


def kind_of_table(path: str) -> str | None:
    """The format by the suffix of a file's name; None if it is none that is read."""
    name = path.lower()
    if name.endswith(PARQUET_SUFFIXES):
        return "parquet"
    if name.endswith(ARROW_SUFFIXES):
        return ARROW
    if name.endswith(WORKBOOK_SUFFIX):
        return WORKBOOK
    return TEXT_FORMATS.get("." + inner_name(path).lower().rpartition(".")[2])


def kind_of_file(path: str) -> str:
    """The format of a table that is a single file; one with an unknown suffix is taken to be Parquet.

    Raises:
        InputError: its suffix is that of a format that is not read.
    """
    kind, name = kind_of_table(path), path.lower()
    if kind is None and inner_name(path) != path:
        raise InputError(f"{path}: only text is read compressed (.csv, .tsv, .json, .jsonl, .txt); unpack it")
    if kind is None and name.endswith(FOREIGN_SUFFIXES):
        raise InputError(f"{path}: sdbatch does not read this format; it reads {READ}")
    return kind or "parquet"


def is_table(path: str) -> bool:
    """Whether a file is a table, by its name."""
    return kind_of_table(path) is not None and not path.rpartition("/")[2].startswith((".", "_"))


def of_one_kind(url: str, found: list[StoredFile]) -> tuple[str, list[StoredFile]]:
    """The format of the table that the files of `url` make, and those that belong to it.

    Raises:
        InputError: there is no table, or there are several kinds.
    """
    by_kind: dict[str, list[StoredFile]] = {}
    for file in found:
        if is_table(file.path):
            by_kind.setdefault(kind_of_table(file.path) or "", []).append(file)
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


def prompt_files(url: str, found: Iterable[StoredFile]) -> list[StoredFile]:
    """The text files of `url`, each of which holds one prompt. Raises `InputError` if there is none."""
    files = [file for file in found if is_table(file.path) and kind_of_table(file.path) == "txt"]
    if not files:
        raise InputError(f"{url}: no .txt file in it; with --prompt-per-file each prompt is a file of its own")
    return files


def left_out(url: str, found: Iterable[StoredFile], chosen: Iterable[StoredFile]) -> list[str]:
    """A message about tables that are not read because of others beside them."""
    read = {file.path for file in chosen}
    others = [file.path for file in found if is_table(file.path) and file.path not in read]
    if not others:
        return []
    kinds = " and ".join(sorted({"." + path.rpartition(".")[2] for path in others}))
    count = f"{len(others):,} {kinds} file{'s' * (len(others) > 1)}"
    return [f"{url}: {count} left out, such as {others[0].rpartition('/')[2]}; to read others, select them with a glob"]
