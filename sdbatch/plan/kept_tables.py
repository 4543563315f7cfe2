"""Tables passed from Python: OUT keeps each as a file, named by its content, so that the run can be resumed from it.

They are in a folder whose name begins with underscores, which readers of the output's tables skip. A table with other
content has another name, so an overwrite writes the new one beside the old one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import BinaryIO

from sdbatch.errors import InputError
from sdbatch.output.manifest import RunRecord
from sdbatch.output.manifest_files import TABLE_NAME, TABLES
from sdbatch.plan.destination import name_within
from sdbatch.prompts import InputFile
from sdbatch.prompts.python_tables import GivenTable, file_digest, same_rows
from sdbatch.storage.store import Store

__all__ = ["kept_before", "kept_here", "placed", "put"]

HASH = "sha256:"
DIGITS = 16  # of the hash, in a name


def placed(given: GivenTable, file: InputFile, out: Store) -> InputFile:
    """The file of a given table as OUT will keep it.

    Args:
        file: its description on this machine.
    """
    name = f"{TABLES}/{given.sha256[:DIGITS]}.parquet"
    return replace(file, path=out.name(name), name=name, stamp="", sha256=given.sha256)


def kept_here(out: Store, files: Sequence[InputFile]) -> list[InputFile] | None:
    """The table that OUT itself keeps, with its hash, if it is what `files` are; else None.

    Raises:
        InputError: it has been changed.
    """
    if len(files) != 1 or files[0].format != "parquet":
        return None
    (file,) = files
    name = name_within(out, Store(file.path, out.options))
    if name is None or not _is_kept(name):
        return None
    sha256 = _digest(out, name)
    if name != f"{TABLES}/{sha256[:DIGITS]}.parquet":
        raise InputError(f"{file.path}: has been changed; its content does not match its name")
    return [replace(file, name=name, sha256=sha256)]


def put(given: GivenTable, file: InputFile, out: Store) -> InputFile:
    """Write the given table into OUT, if it is not there, and describe it as it is there. Raises `StorageError`."""
    name = str(file.name)
    if not (out.exists(name) and _digest(out, name) == file.sha256):
        with open(given.path, "rb") as source:
            out.write_stream(name, lambda target: _copy(source, target))
    (stored,) = Store(file.path, out.options).files()
    return replace(file, size=stored.size, stamp=stored.stamp)


def _copy(source: BinaryIO, target: BinaryIO) -> None:
    source.seek(0)
    while piece := source.read(1 << 20):
        target.write(piece)


def kept_before(given: GivenTable, out: Store, earlier: RunRecord | None) -> str | None:
    """The path of the table in OUT, if it has the given one's rows although another version of a library wrote it.

    Args:
        earlier: the record of the run that this one continues.

    Raises:
        InputError: OUT was started with a table of other rows.
    """
    stamp = str(earlier.inputs[0]["stamp"]) if earlier is not None and len(earlier.inputs) == 1 else ""
    sha256 = stamp.removeprefix(HASH)
    name = f"{TABLES}/{sha256[:DIGITS]}.parquet"
    if not stamp.startswith(HASH) or not _is_kept(name) or sha256 == given.sha256:
        return None
    if out.exists(name) and _digest(out, name) == sha256:
        with out.open(name) as file:
            if same_rows(file, given.path):
                return out.name(name)
    raise InputError(
        f"{out.url} was started with another table, {name}; use another OUT, or overwrite=True to replace this one"
    )


def _digest(out: Store, name: str) -> str:
    with out.open(name) as file:
        return file_digest(file)


def _is_kept(name: str | None) -> bool:
    folder, _, own = str(name).partition("/")
    return folder == TABLES and TABLE_NAME.fullmatch(own) is not None
