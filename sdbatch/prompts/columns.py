"""The meaning of a prompt table's columns, as everything after the check of the table uses it."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, replace

import pyarrow as pa
import pyarrow.types as pt

from sdbatch.diffusion.request import ROW_FIELDS
from sdbatch.fields import Field
from sdbatch.prompts.types import is_text

__all__ = ["SOURCES", "Columns"]

SOURCES = {"source_file": pa.string(), "source_row": pa.int64()}
"""The columns with a row's origin: carried into the metadata like table columns, although no file has them."""


@dataclass(frozen=True)
class Columns:
    """The meaning of a prompt table's columns. Picklable.

    Attributes:
        settings: the column of each setting.
        carried: the name in the output of each carried column, in the table's order.
        schema: the schema of the carried columns in the output.
        text: whether the values are text, as in CSV, from which numbers must be parsed.
        seed_type: the type of seeds in the output: uint64, or int64 in an OUT whose manifest has no column mapping,
            where seeds are below 2**63 and -1 does not mean "no seed".
        resembling: carried columns that have no effect, with the setting that their name resembles.
        fields: the settings that have a column in the output's metadata.
        unused: carried columns named after a setting that this run does not use, with the reason.
        networks: hashes of the networks that rows name, by name.
        held: columns that contain pictures; workers read them, they never go through Ray.
        keeps_pictures: whether the metadata keeps the bytes of input pictures.
        judged: the metadata's columns of attempts and scores by name: "count", "flag", "number" or "text".
        sources: the carried columns that are in `SOURCES` and in no file.
        table: the columns of the whole table, if those of its files differ; otherwise None.
        differences: how they differ, in one line; empty if columns are only all null in some file.
    """

    settings: Mapping[str, str]
    carried: Mapping[str, str]
    schema: pa.Schema
    text: bool = False
    seed_type: pa.DataType = dataclasses.field(default_factory=pa.uint64)
    resembling: Mapping[str, str] = dataclasses.field(default_factory=dict)
    fields: tuple[Field, ...] = ROW_FIELDS
    unused: Mapping[str, str] = dataclasses.field(default_factory=dict)
    held: tuple[str, ...] = ()
    keeps_pictures: bool = False
    judged: Mapping[str, str] = dataclasses.field(default_factory=dict)
    networks: Mapping[str, str] = dataclasses.field(default_factory=dict)
    sources: tuple[str, ...] = ()
    table: pa.Schema | None = None
    differences: str = ""

    @property
    def needed(self) -> list[str]:
        """The columns to read from the input."""
        return list(dict.fromkeys([*self.settings.values(), *(c for c in self.carried if c not in self.sources)]))

    def without_held(self) -> Columns:
        """These columns, without those that contain pictures."""
        return replace(
            self, settings={name: column for name, column in self.settings.items() if column not in self.held}
        )

    def only_held(self) -> Columns:
        """These columns, with only those that contain pictures."""
        held = {name: column for name, column in self.settings.items() if column in self.held}
        return replace(self.without_carried(), settings=held)

    def without_carried(self) -> Columns:
        """These columns, with only the settings."""
        return replace(self, carried={}, schema=pa.schema([]), sources=())

    def with_carried_texts(self) -> Columns:
        """These columns, without carried ones that contain no text; for planning only."""
        texts = [
            (column, field)
            for column, field in zip(self.carried, self.schema, strict=True)
            if _has_text(field.type) and column not in self.sources
        ]
        carried = {column: self.carried[column] for column, _ in texts}
        return replace(self, carried=carried, schema=pa.schema([field for _, field in texts]), sources=())


def _has_text(kind: pa.DataType) -> bool:
    """Whether a type contains text at any depth."""
    if isinstance(kind, pa.BaseExtensionType):
        return _has_text(kind.storage_type)
    if pt.is_dictionary(kind):
        return _has_text(kind.value_type)
    return is_text(kind) or any(_has_text(kind.field(i).type) for i in range(kind.num_fields))
