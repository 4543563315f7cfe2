"""Turns a row of the prompt table into requests for the engine, or into the reason why that is impossible."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from sdbatch.diffusion.request import COMMON, ROW_FIELDS, TEXT_TO_IMAGE, Request
from sdbatch.diffusion.tasks import task_named
from sdbatch.errors import UsageError
from sdbatch.fields import UNRECORDED, Field, FrozenMapping
from sdbatch.kinds import Picture
from sdbatch.prompts.cells import Bad, read_cells
from sdbatch.prompts.columns import Columns
from sdbatch.prompts.lora_cells import TAGGED, joined_loras, without_lora_tags
from sdbatch.prompts.names import SIDES
from sdbatch.prompts.pieces import Piece
from sdbatch.prompts.seeds import derived_seed, image_seeds
from sdbatch.prompts.types import is_text
from sdbatch.settings import RunSettings

__all__ = ["PromptRow", "parse"]

SIZE = r"^\s*(?P<width>\d+)\s*[x×X]\s*(?P<height>\d+)\s*$"


@dataclass(frozen=True, slots=True)
class PromptRow:
    """A parsed row of the table.

    Attributes:
        requests: one per image, with seeds counting up from the row's; if the row has an error, they contain the
            values that could be read, and None for the others.
        error: the reason, naming the column, why the row cannot be run; None if no error is known without the model.
        unread: the settings whose values could not be read at all.
    """

    requests: tuple[Request, ...]
    error: str | None
    unread: frozenset[str] = frozenset()


def parse(table: pa.Table, columns: Columns, settings: RunSettings, pieces: Iterable[Piece]) -> list[PromptRow]:
    """Parse the rows of a table; `pieces` are their locations, in order.

    Checks what needs no model: types, ranges, empty prompts. `sdbatch.diffusion.validate` checks whether the model
    supports the sampler and the size.
    """
    known = {field.name: field for field in (*ROW_FIELDS, *columns.fields)}
    wide = columns.seed_type == pa.uint64()
    cells = {
        setting: read_cells(
            known[setting], _named(column), _of_side(table, setting, columns), text=columns.text, wide_seeds=wide
        )
        for setting, column in columns.settings.items()
    }
    if task_named(settings.task or TEXT_TO_IMAGE).needs_prompt:
        cells["prompt"] = [_prompt(_named(columns.settings["prompt"]), cell) for cell in cells["prompt"]]
    defaults = {name: _of_the_run(field, settings) for name, field in known.items()}
    places = [(file, row) for file, first, rows in pieces for row in range(first, first + rows)]
    return [
        _row({setting: values[i] for setting, values in cells.items()}, known, defaults, wide, settings, place)
        for i, place in enumerate(places)
    ]


def _of_side(table: pa.Table, setting: str, columns: Columns) -> pa.ChunkedArray:
    """A setting's column; of one that holds width and height together, such as 512x768, the setting's part."""
    cells = table.column(columns.settings[setting])
    if setting not in SIDES or len({columns.settings.get(side) for side in SIDES}) > 1 or not is_text(cells.type):
        return cells
    part = pc.struct_field(pc.extract_regex(cells, SIZE), setting)
    return pc.if_else(pc.is_null(part), cells, part)


def _row(
    cells: Mapping[str, Any],
    known: Mapping[str, Field],
    defaults: Mapping[str, Any],
    wide_seeds: bool,
    settings: RunSettings,
    place: tuple[int, int],
) -> PromptRow:
    bad = [cell for cell in cells.values() if isinstance(cell, Bad)]
    unread = frozenset(name for name, cell in cells.items() if isinstance(cell, Bad) and cell.known is None)
    values = {**defaults, **_values(cells, known)}
    _take_lora_tags(values, settings, bad)
    seed, count = values.pop("seed"), settings.images_per_prompt
    if seed is None and "seed" not in unread:
        seed = derived_seed(settings.value("seed"), *place)
    seeds: Sequence[Any] | Bad = [None] * count if seed is None else image_seeds(seed, count, wide=wide_seeds)
    if isinstance(seeds, Bad):
        bad.append(seeds)
        seeds = [None] * count
    own = {name: values.pop(name) for name in known if name not in COMMON}
    own = {**settings.extra, **own}  # outputs of older versions have settings without a column
    bad += _without_what_is_beside(own, cells, known)
    extra = FrozenMapping({name: value for name, value in own.items() if value is not None})
    requests = tuple(Request(**values, seed=seed, task=settings.task or TEXT_TO_IMAGE, extra=extra) for seed in seeds)
    return PromptRow(requests, bad[0].reason if bad else None, unread)


def _values(cells: Mapping[str, Any], known: Mapping[str, Field]) -> dict[str, Any]:
    """What the row's own cells say; of a bad one, what is known."""
    values = {}
    for name, cell in cells.items():
        if isinstance(cell, Bad):
            values[name] = known[name].canonical_of(cell.known)
        elif cell is not None:
            values[name] = known[name].canonical_of(cell)
        elif known[name].null is not UNRECORDED:
            values[name] = known[name].null
    return values


def _without_what_is_beside(own: dict[str, Any], cells: Mapping[str, Any], known: Mapping[str, Field]) -> list[Bad]:
    """Remove settings that need another setting which the row does not have: the run's values are for other rows.

    Returns errors for pictures in the row's own cells.
    """
    lone = [field for field in known.values() if field.beside and own.get(field.beside) is None]
    for field in lone:
        own.pop(field.name, None)
    named = [f for f in lone if isinstance(f.kind, Picture) and cells.get(f.name) is not None]
    return [Bad(f"{field.name} without a {field.beside}") for field in named]


def _take_lora_tags(values: dict[str, Any], settings: RunSettings, bad: list[Bad]) -> None:
    """Move `<lora:name:weight>` tags of a prompt to the row's LoRAs, if there is a folder of LoRAs."""
    prompt = values["prompt"]
    if settings.lora_dir is None or not isinstance(prompt, str) or TAGGED not in prompt:
        return
    try:
        values["prompt"], tagged = without_lora_tags(prompt)
    except UsageError as error:
        bad.append(Bad(str(error)))
        return
    values["lora"] = joined_loras(values.get("lora"), tagged)


def _of_the_run(field: Field, settings: RunSettings) -> Any:
    """The run's value for a row without its own; None for required settings, and for the seed, which is derived."""
    if field.name in ("prompt", "seed"):
        return None
    given = settings.given(field.name)
    return field.canonical_of(field.default if given is None else given)


def _prompt(column: str, cell: Any) -> Any:
    if isinstance(cell, Bad) or (cell is not None and cell.strip()):
        return cell
    return Bad(f"{column} is empty", cell)


def _named(column: str) -> str:
    return column if column.isprintable() else repr(column)
