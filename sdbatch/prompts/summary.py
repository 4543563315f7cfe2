"""Describes the meaning of a table's columns in a line or two."""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Iterator

from sdbatch.prompts.columns import Columns
from sdbatch.prompts.input_file import InputFile
from sdbatch.prompts.text_encodings import UTF8

__all__ = ["carried_columns", "readings", "setting_columns", "unused_settings"]

SHOWN = 40  # of the carried columns


def setting_columns(columns: Columns) -> str:
    """The settings in the table, with the names of their columns if these differ."""
    parts = (
        setting if setting == column else f"{setting} (column {column!r})"
        for setting, column in columns.settings.items()
    )
    return ", ".join(parts)


def carried_columns(columns: Columns) -> str:
    """The columns that are only carried through to the output."""
    names = [
        _shown(column) if column == name else f"{_shown(column)} as {_shown(name)}"
        for column, name in columns.carried.items()
        if column not in columns.sources
    ]
    more = f", and {len(names) - SHOWN:,} more" if len(names) > SHOWN else ""
    return ", ".join(names[:SHOWN]) + more if names else "none"


def unused_settings(columns: Columns) -> Iterator[str]:
    """A warning for each carried column that resembles a setting, or is one that the run does not use."""
    for column, reason in columns.unused.items():
        yield f"column {column!r} is carried to the output but has no effect: {reason}"
    for column, setting in columns.resembling.items():
        option = f"--column {shlex.quote(f'{setting}={column}')}"
        other = columns.settings.get(setting)
        instead = f"; {setting} comes from column {other!r}" if other else f"; to use it as {setting}: {option}"
        yield f"column {column!r} is carried to the output but has no effect{instead}"


def readings(files: Iterable[InputFile], columns: Columns) -> Iterator[str]:
    """A line for each special way in which files are read, and one if their columns differ."""
    alike: dict[str, list[str]] = {}
    for file in files:
        encoding = f"is read as {file.encoding}" if file.encoding != UTF8 else ""
        for text in filter(None, (encoding, file.note)):
            alike.setdefault(text, []).append(file.path)
    for text, paths in alike.items():
        yield f"{paths[0]} {text}" + (f", and {len(paths) - 1:,} more like it" if len(paths) > 1 else "")
    if columns.differences:
        yield columns.differences


def _shown(name: str) -> str:
    return name if name.isprintable() and name == name.strip() else repr(name)
