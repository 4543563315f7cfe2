"""What the columns of a table are for, given the run's options, its model, and the output that it continues."""

from __future__ import annotations

import dataclasses

from sdbatch.diffusion import ModelInfo
from sdbatch.diffusion.adapters.net_fields import WITHOUT_DEEP_CACHE
from sdbatch.diffusion.request import COMMON, ROW_FIELDS
from sdbatch.diffusion.row_fields import fields_of, own_fields
from sdbatch.errors import UsageError
from sdbatch.fields import Field
from sdbatch.output.manifest import RunRecord
from sdbatch.prompts import SOURCES, Columns, InputFile, check_table
from sdbatch.prompts.names import candidates
from sdbatch.prompts.picture_cells import picture_names
from sdbatch.prompts.unified import column_names
from sdbatch.resolution import task_name, unused_because
from sdbatch.settings import RunSettings

__all__ = ["columns_of", "may_have_pictures", "refuse_adapters", "refuse_lone"]


def columns_of(
    files: list[InputFile], settings: RunSettings, earlier: RunRecord | None, model: ModelInfo | None
) -> Columns:
    """The meaning of the table's columns.

    Args:
        earlier: the record of the output that the run continues.
        model: None if it is not known yet. Then a setting of a single family is treated like other columns.

    Raises as `check_table` does.
    """
    own = own_fields()
    usable = fields_of(task_name(settings), model)
    unused: list[tuple[Field, str]] = []
    if model is not None:
        fields = (*ROW_FIELDS, *own)
        lone = [field for field in usable if field.beside and not _is_used(own_field(field.beside), files, settings)]
        unused += [(field, f"no row has a {field.beside}") for field in lone]
        unused += [(field, why) for field in fields if (why := unused_because(field, task_name(settings), model))]
    else:
        elsewhere = {field.name for field in own} - {field.name for field in usable}
        chosen = {name: column for name, column in settings.column.items() if name not in elsewhere}
        settings = dataclasses.replace(settings, column=chosen)
    if earlier is None:
        usable = tuple(field for field in usable if not field.only_if_used or _is_used(field, files, settings))
        fields = (*ROW_FIELDS, *(field for field in usable if field.name not in COMMON))
        return check_table(files, settings, fields=fields, unused=unused, sources=tuple(SOURCES))
    # A continued OUT keeps the columns that it was started with; one without a recorded mapping, its old rules.
    fields = earlier.known_fields()
    recorded = {field.name for field in fields}
    unused += [(field, "OUT was started before it was a column") for field in usable if field.name not in recorded]
    mapping = earlier.columns
    if model is None and mapping is not None:  # the model may not use settings for which this OUT has no column
        unused += [(field, "") for field in fields if field.name not in mapping]
    carried = {entry["name"] for entry in earlier.schema or ()}
    sources = [name for name in SOURCES if name in carried]
    return check_table(
        files, settings, mapping=mapping, before=mapping is None, fields=fields, unused=unused, sources=sources
    )


def may_have_pictures(files: list[InputFile]) -> bool:
    """Whether a column may hold input pictures, so that its use depends on the model's task."""
    own = {field.name: field for field in own_fields()}
    return any(candidates(name, column_names(files), own) for name in picture_names(own.values()))


def refuse_lone(files: list[InputFile], settings: RunSettings) -> None:
    """Refuse an option without effect, because neither an option nor a column names what it belongs to."""
    for field in own_fields():
        if field.beside and settings.given(field.name) is not None and not _is_used(field, files, settings):
            raise UsageError(f"{field.option}: no row has a {field.beside}; name one by an option or a column")


def refuse_adapters(columns: Columns, settings: RunSettings) -> None:
    """What such networks add to layers that DeepCache skips would be lost at most calls."""
    for name in WITHOUT_DEEP_CACHE:
        column = columns.settings.get(name)
        if column is not None or settings.extra.get(name):
            given = own_field(name).option if column is None else f"column {column!r}"
            raise UsageError(f"{given}: a {name} does not work with --deep-cache; leave one of them out")


def _is_used(field: Field, files: list[InputFile], settings: RunSettings) -> bool:
    """Whether an option or a column sets this setting, and the one without which it has no effect."""
    chosen = settings.column.get(field.name)
    column = candidates(field.name, column_names(files), {field.name: field}) if chosen is None else chosen
    if settings.given(field.name) is None and not column:
        return False
    return not field.beside or _is_used(own_field(field.beside), files, settings)


def own_field(name: str) -> Field:
    return next(field for field in own_fields() if field.name == name)
