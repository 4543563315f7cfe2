"""The networks that a table names, such as ControlNets: each inspected once, before a model is loaded."""

from __future__ import annotations

from collections.abc import Sequence

from sdbatch.diffusion import ModelInfo
from sdbatch.errors import AdapterError, InputError, UsageError
from sdbatch.output.metadata import is_network
from sdbatch.plan.named_cells import named_cells
from sdbatch.prompts import Columns, InputFile
from sdbatch.row_networks import Network, inspect_network
from sdbatch.settings import RunSettings

__all__ = ["named_networks"]

MAX_NAMES = 1_000


def named_networks(
    files: Sequence[InputFile], columns: Columns, settings: RunSettings, model: ModelInfo
) -> list[Network]:
    """The networks that options and cells name. A cell that cannot be read fails only its row.

    Raises:
        UsageError: an option names a network that is not there, or that the model cannot use.
        InputError: the same for a cell; names file, row and column. Or the table names too many.
    """
    found: dict[tuple[str, str], Network] = {}
    for field in filter(is_network, columns.fields):
        for name in settings.extra.get(field.name) or ():
            if (field.name, name) not in found:
                try:
                    found[field.name, name] = inspect_network(field.name, name, model, settings.storage_options)
                except AdapterError as error:
                    raise UsageError(f"{field.option}: {error}") from error
        column = columns.settings.get(field.name)
        for _, file, row, cell in named_cells(files, columns, [field], settings.storage_options):
            for name in cell if isinstance(cell, tuple) else ():
                if (field.name, name) in found:
                    continue
                where = f"{file}, row {row:,} (from 0), column {column!r}"
                if len(found) == MAX_NAMES:
                    raise InputError(f"{where}: more than {MAX_NAMES:,} different networks; split the table")
                try:
                    found[field.name, name] = inspect_network(field.name, name, model, settings.storage_options)
                except AdapterError as error:
                    raise InputError(f"{where}: {error}") from error
    return list(found.values())
