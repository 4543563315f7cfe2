"""Which column of the prompt table means what, decided once for all of its files."""

from __future__ import annotations

import difflib
import io
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

import pyarrow as pa
import pyarrow.parquet as pq
import pyarrow.types as pt

from sdbatch.errors import InputError, UsageError
from sdbatch.prompts.inputs import InputFile
from sdbatch.settings import RunSettings

__all__ = ["OUTPUT_COLUMNS", "SETTING_COLUMNS", "Columns", "check_table"]

# The settings that a row may override, and the other names under which tables have them.
SETTING_COLUMNS: Mapping[str, tuple[str, ...]] = {
    "prompt": (),
    "negative_prompt": (),
    "seed": (),
    "sampler": (),
    "steps": ("num_inference_steps", "step"),
    "guidance_scale": ("cfg",),
    "height": (),
    "width": (),
}
OUTPUT_COLUMNS = (
    "key",
    "file_name",
    "image",
    *SETTING_COLUMNS,
    "model",
    "status",
    "error",
    "sha256",
    "prompt_tokens",
    "prompt_truncated",
)
WHOLE_NUMBERS = ("seed", "steps", "height", "width")


@dataclass(frozen=True)
class Columns:
    """What the columns of a prompt table are for. Picklable.

    Attributes:
        settings: setting to the column that holds it.
        carried: column to the name that it has in the output, in the table's order.
        schema: of the carried columns as they come out.
        text: whether the values are text, as in CSV, and numbers have yet to be read from it.
    """

    settings: Mapping[str, str]
    carried: Mapping[str, str]
    schema: pa.Schema
    text: bool = False

    @property
    def needed(self) -> list[str]:
        """The columns to read from the input."""
        return list(dict.fromkeys([*self.settings.values(), *self.carried]))

    def without_carried(self) -> Columns:
        """The same, for a reader that wants only the settings: to plan, not to run."""
        return replace(self, carried={}, schema=pa.schema([]))


def check_table(files: list[InputFile], settings: RunSettings) -> Columns:
    """Checks that the files make one table that can be run, and finds out what its columns are for.

    A column that is all null in one file (type null) goes with any type in the others. `--column NAME=COLUMN`
    says which column holds a setting; `--column NAME=` that none does, and a column of that name is then
    carried through as `input_NAME`.

    Raises:
        InputError: files that differ, no prompt column, a wrong type, a name that the output needs; names
            file and column.
        UsageError: a `--column` that names what there is not.
    """
    schema = _one_schema(files)
    first = files[0].path
    _refuse_duplicates(schema, first)
    used = _settings_columns(schema, settings.column, first)
    text = files[0].format in ("csv", "tsv")
    for setting, column in used.items():
        _check_type(setting, column, schema.field(column).type, text, first)
    carried = _carried_columns(schema, used, settings.column, first)
    fields = [schema.field(column).with_name(name) for column, name in carried.items()]
    out = pa.schema(fields)
    _refuse_unwritable(out, first)
    return Columns(settings=used, carried=carried, schema=out, text=text)


def _one_schema(files: list[InputFile]) -> pa.Schema:
    first = files[0]
    types: dict[str, pa.Field] = {field.name: field for field in first.schema}
    for file in files[1:]:
        if file.schema is first.schema:
            continue
        for name in types:
            if name not in file.schema.names:
                raise InputError(f"{file.path}: has no column {name!r}, which {first.path} has")
        for field in file.schema:
            known = types.get(field.name)
            if known is None:
                raise InputError(f"{file.path}: has a column {field.name!r}, which {first.path} has not")
            if pt.is_null(known.type):
                types[field.name] = field
            elif field.type != known.type and not pt.is_null(field.type):
                raise InputError(
                    f"{file.path}: column {field.name!r} holds {field.type}; in {first.path} it holds {known.type}"
                )
    fields = [field.with_nullable(True) for field in types.values()]
    return pa.schema(fields) if len(types) == len(first.schema) else first.schema


def _refuse_duplicates(schema: pa.Schema, path: str) -> None:
    for name in schema.names:
        if schema.names.count(name) > 1:
            raise InputError(f"{path}: has more than one column {name!r}")


def _settings_columns(schema: pa.Schema, chosen: Mapping[str, str], path: str) -> dict[str, str]:
    for name, column in chosen.items():
        known = SETTING_COLUMNS if column else OUTPUT_COLUMNS
        if name not in known:
            raise UsageError(f"--column {name}={column}: {name!r} is none of: {', '.join(known)}")
        if column and column not in schema.names:
            raise UsageError(f"--column {name}={column}: {path} has no column {column!r}{_like(column, schema.names)}")
    used: dict[str, str] = {}
    for setting, aliases in SETTING_COLUMNS.items():
        if setting in chosen:
            candidates = [chosen[setting]] if chosen[setting] else []
        else:
            candidates = [name for name in (setting, *aliases) if name in schema.names]
            if setting == "prompt" and not candidates:
                candidates = [name for name in schema.names if name.lower() == "prompt"]
        if len(candidates) > 1:
            raise InputError(
                f"{path}: columns {' and '.join(map(repr, candidates))} both set {setting}; "
                f"choose one with --column {setting}={candidates[0]}"
            )
        if candidates:
            used[setting] = candidates[0]
    if "prompt" not in used:
        raise InputError(
            f"{path}: has no column 'prompt'; name the one that holds the prompts with --column prompt=NAME, "
            f"of: {', '.join(map(repr, schema.names)) or 'none'}"
        )
    return used


def _carried_columns(
    schema: pa.Schema, used: Mapping[str, str], chosen: Mapping[str, str], path: str
) -> dict[str, str]:
    carried: dict[str, str] = {}
    for column in schema.names:
        if column in used.values():
            continue
        name = f"input_{column}" if chosen.get(column) == "" else column
        if name in OUTPUT_COLUMNS:
            raise InputError(
                f"{path}: column {column!r} has the name of the output's column {name!r}; "
                f"rename it, or let it be carried as 'input_{column}' with --column {column}="
            )
        if name in schema.names and name != column:
            raise InputError(f"{path}: column {column!r} would be carried as {name!r}, and there is one already")
        carried[column] = name
    return carried


def _check_type(setting: str, column: str, kind: pa.DataType, text: bool, path: str) -> None:
    wanted = "text"
    plain = kind.value_type if pt.is_dictionary(kind) else kind
    fits = pt.is_null(plain) or pt.is_string(plain) or pt.is_large_string(plain) or pt.is_string_view(plain)
    if setting == "sampler":
        wanted, fits = "text, or DiffusionDB's codes", fits or pt.is_integer(plain)
    elif setting in (*WHOLE_NUMBERS, "guidance_scale") and not text:
        wanted = "numbers" if setting == "guidance_scale" else "whole numbers"
        fits = pt.is_null(plain) or pt.is_integer(plain) or pt.is_floating(plain) or pt.is_decimal(plain)
    if not fits:
        called = f"column {column!r}" + (f" ({setting})" if column != setting else "")
        raise InputError(f"{path}: {called} holds {kind}; wanted {wanted}")


def _refuse_unwritable(schema: pa.Schema, path: str) -> None:
    for field in schema:
        try:
            pq.write_table(pa.schema([field]).empty_table(), io.BytesIO())
        except pa.ArrowException as exc:
            raise InputError(f"{path}: column {field.name!r} holds {field.type}, which Parquet cannot store") from exc


def _like(name: str, names: Iterable[str]) -> str:
    close = difflib.get_close_matches(name, names, n=1)
    return f"; did you mean {close[0]!r}?" if close else f"; it has: {', '.join(map(repr, names))}"
