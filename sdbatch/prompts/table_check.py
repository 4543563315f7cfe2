"""Decides the meaning of the prompt table's columns, once for all of its files."""

from __future__ import annotations

import difflib
import io
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import replace

import pyarrow as pa
import pyarrow.parquet as pq
import pyarrow.types as pt

from sdbatch.diffusion.request import FIRST_FIELDS, ROW_FIELDS
from sdbatch.errors import InputError, UsageError
from sdbatch.fields import Field
from sdbatch.kinds import Picture, Several
from sdbatch.prompts.column_types import accepts
from sdbatch.prompts.columns import SOURCES, Columns
from sdbatch.prompts.input_file import InputFile
from sdbatch.prompts.made_rows import FORMAT as MADE
from sdbatch.prompts.names import SIDES, ambiguous, candidates, exact_candidates, resembled, size_column
from sdbatch.prompts.types import is_text
from sdbatch.prompts.unified import own_names, unified_schema
from sdbatch.prompts.workbooks import FORMAT as WORKBOOK
from sdbatch.scoring.judging import judged_columns
from sdbatch.settings import RunSettings
from sdbatch.weighted_files import WeightedFiles

__all__ = ["OUTPUT_COLUMNS", "check_table"]

# sdbatch's own columns in the output, besides the settings; some exist in only one layout.
OUTCOME_COLUMNS = ("model", "status", "error", "sha256", "prompt_tokens", "prompt_truncated")
LAYOUT_COLUMNS: Mapping[str, str] = {"files": "file_name", "parquet": "image"}
OUTPUT_COLUMNS = ("key", *LAYOUT_COLUMNS.values(), *(field.name for field in ROW_FIELDS), *OUTCOME_COLUMNS)


def check_table(
    files: list[InputFile],
    settings: RunSettings,
    *,
    mapping: Mapping[str, str] | None = None,
    before: bool = False,
    fields: Sequence[Field] | None = None,
    unused: Sequence[tuple[Field, str]] = (),
    sources: Sequence[str] = (),
) -> Columns:
    """Check that the files form one table that can be run, and decide the meaning of its columns.

    Files whose columns differ are united by name (`unified_schema`), but each must have the prompts.
    `--column NAME=COLUMN` names the column of a setting; `--column NAME=` means that no column has it, and a column of
    that name is carried through as `input_NAME`.

    Args:
        mapping: the column of each setting, from the manifest of OUT; by default found by the columns' names.
        before: read the table as sdbatch 0.1.0 did, for an OUT whose manifest has no mapping: names must be spelt
            exactly, seeds are int64, and partitions are not columns.
        fields: the settings that have a column in the output's metadata; by default the common row settings.
        unused: settings that this run cannot use, with the reason; their columns are carried.
        sources: the columns of `SOURCES` in the output; the table's own columns of these names take precedence.

    Raises:
        InputError: files do not form one table, the prompt column is missing, a type is wrong, or the output uses a
            column's name; the message names file and column.
        UsageError: a `--column` names an unknown setting or column.
    """
    if before:
        files = [replace(file, schema=file.own_schema) for file in files]
    if fields is None:
        fields = FIRST_FIELDS if before else ROW_FIELDS
    for file in {id(file.schema): file for file in reversed(files)}.values():
        _refuse_duplicates(file.schema, _called(file))
    schema, differences = unified_schema(files, (mapping or {}).values())
    first = _called(files[0])
    known = {field.name: field for field in fields}
    useless = {field.name for field, _ in unused}
    usable = [field for field in fields if field.name not in useless]
    judged = judged_columns(settings)
    _check_chosen(settings.column, usable, [*(f.recorded_as for f in fields), *judged], schema, first)
    if mapping is None:
        used = _found_columns(schema, settings, first, known, usable, before)
    else:
        _refuse_missing(mapping, schema, first)
        used = dict(mapping)
    _refuse_without_prompts(files, schema, used["prompt"])
    for setting, column in used.items():
        _check_type(known[setting], column, schema, files)
    idle = _idle_columns(schema, used, unused)
    carried = _carried_columns(schema, used, settings, first, fields, useless, judged)
    out = pa.schema([schema.field(column).with_name(name) for column, name in carried.items()])
    _refuse_unwritable(out, first)
    added = tuple(name for name in sources if name not in schema.names)
    resembling = _resembling([name for name in carried if name not in idle], usable, settings)
    if files[0].format == MADE:  # its settings' columns are named so that they have no effect
        resembling = {}
    return Columns(
        settings=used,
        carried=carried | {name: name for name in added},
        schema=pa.schema([*out, *(pa.field(name, SOURCES[name]) for name in added)]),
        text=files[0].format in ("csv", "tsv", "xlsx"),
        seed_type=pa.int64() if before else pa.uint64(),
        resembling=resembling,
        fields=tuple(fields),
        unused=idle,
        held=_held_pictures(schema, used, known),
        keeps_pictures=settings.keep_input_images,
        judged=judged,
        sources=added,
        table=schema if differences or schema is not files[0].schema else None,
        differences=differences,
    )


def _resembling(columns: Sequence[str], usable: Sequence[Field], settings: RunSettings) -> dict[str, str]:
    """Carried columns that look like a setting, unless `--column NAME=` carries that setting on purpose."""
    found = {column: resembled(column, usable) for column in columns}
    return {column: name for column, name in found.items() if name and settings.column.get(name) != ""}


def _called(file: InputFile) -> str:
    """A file's name in messages; for a workbook, with the sheet that is read."""
    return f"{file.path} ({file.note.removeprefix('is ')})" if file.format == WORKBOOK and file.note else file.path


def _refuse_without_prompts(files: Sequence[InputFile], schema: pa.Schema, column: str) -> None:
    for file in {id(file.schema): file for file in reversed(files)}.values():
        if not own_names(file, schema, [column]):
            has = next(other.path for other in files if column in other.schema.names)
            raise InputError(f"{file.path}: has no column {column!r}, which holds the prompts of {has}")


def _refuse_duplicates(schema: pa.Schema, path: str) -> None:
    for name, count in Counter(schema.names).items():
        if count > 1:
            raise InputError(f"{path}: has more than one column {name!r}")


def _check_chosen(
    chosen: Mapping[str, str], usable: Sequence[Field], written: Sequence[str], schema: pa.Schema, path: str
) -> None:
    """Reject a `--column` with an unknown setting or a missing column."""
    for name, column in chosen.items():
        known = [field.name for field in usable] if column else list(dict.fromkeys([*OUTPUT_COLUMNS, *written]))
        if name not in known:
            raise UsageError(f"--column {name}={column}: expected one of {', '.join(known)}")
        if column and column not in schema.names:
            raise UsageError(f"--column {name}={column}: {path} has no column {column!r}{_like(column, schema.names)}")


def _found_columns(
    schema: pa.Schema,
    settings: RunSettings,
    path: str,
    known: Mapping[str, Field],
    usable: Sequence[Field],
    before: bool,
) -> dict[str, str]:
    """The column of each setting, by the columns' names; width and height may share one, such as 512x768."""
    find = exact_candidates if before else candidates
    used = _settings_columns(schema, settings.column, path, lambda name: find(name, schema.names, known), usable)
    if not before and {*SIDES} <= {field.name for field in usable} - settings.column.keys():
        size = size_column((column.name for column in schema if is_text(column.type)), used)
        used |= {} if size is None else dict.fromkeys(SIDES, size)
    return used


def _settings_columns(
    schema: pa.Schema,
    chosen: Mapping[str, str],
    path: str,
    find: Callable[[str], list[str]],
    usable: Sequence[Field],
) -> dict[str, str]:
    used: dict[str, str] = {}
    for setting in (field.name for field in usable):
        found = find(setting)
        if setting in chosen:
            found = [chosen[setting]] if chosen[setting] else []
        if len(found) > 1:
            raise InputError(f"{path}: {ambiguous(setting, found)}")
        if found:
            used[setting] = found[0]
    if "prompt" not in used:
        raise InputError(
            f"{path}: has no column 'prompt'; name the column of the prompts with --column prompt=NAME; "
            f"columns: {', '.join(map(repr, schema.names)) or 'none'}"
        )
    return used


def _held_pictures(schema: pa.Schema, used: Mapping[str, str], known: Mapping[str, Field]) -> tuple[str, ...]:
    columns = [column for name, column in used.items() if isinstance(known[name].kind, Picture)]
    return tuple(column for column in columns if _holds_bytes(schema.field(column).type))


def _holds_bytes(kind: pa.DataType) -> bool:
    binary = pt.is_binary(kind) or pt.is_large_binary(kind) or pt.is_fixed_size_binary(kind)
    return binary or any(_holds_bytes(kind.field(i).type) for i in range(kind.num_fields))


def _idle_columns(schema: pa.Schema, used: Mapping[str, str], unused: Sequence[tuple[Field, str]]) -> dict[str, str]:
    """Columns of settings that the run does not use, with the reasons."""
    idle: dict[str, str] = {}
    for field, reason in unused:
        for column in candidates(field.name, schema.names, {field.name: field}):
            if column not in used.values():
                idle[column] = reason
    return idle


def _refuse_missing(mapping: Mapping[str, str], schema: pa.Schema, path: str) -> None:
    for setting, column in mapping.items():
        if column not in schema.names:
            raise InputError(f"{path}: has no column {column!r}, which OUT uses as {setting}")


def _carried_columns(
    schema: pa.Schema,
    used: Mapping[str, str],
    settings: RunSettings,
    path: str,
    fields: Sequence[Field],
    useless: Collection[str],
    judged: Collection[str],
) -> dict[str, str]:
    chosen = settings.column
    own = {name for layout, name in LAYOUT_COLUMNS.items() if layout == settings.layout}
    hashed = [field for field in fields if isinstance(field.kind, Picture | WeightedFiles) or _is_network(field)]
    recorded = {field.recorded_as for field in fields} | {f"{field.recorded_as}_sha256" for field in hashed}
    written = {"key", *own, *recorded, *OUTCOME_COLUMNS, *judged}
    carried: dict[str, str] = {}
    clashes: list[str] = []
    names = set(schema.names)  # Arrow builds the list at each access
    for column in schema.names:
        if column in used.values():
            continue
        may_stay = column not in written
        is_aside = chosen.get(column) == "" or (not may_stay and (column in useless or settings.rename_input))
        name = f"input_{column}" if is_aside else column
        if name in written:
            clashes.append(column)
            continue
        if name in names and name != column:
            taken = f"would be carried as {name!r}, but there is already a column of that name"
            raise InputError(f"{path}: column {column!r} {taken}")
        carried[column] = name
    _refuse_clashes(clashes, settings, path)
    return carried


def _refuse_clashes(columns: Sequence[str], settings: RunSettings, path: str) -> None:
    """Reject columns with names of the output's own; the message names all of them, and the option that helps."""
    if not columns:
        return
    if len(columns) == 1:
        (name,) = columns
        raise InputError(
            f"{path}: column {name!r} has the name of the output's column {name!r}; "
            f"rename it, or carry it as 'input_{name}' with --column {name}= or --rename-input"
        )
    advice = (
        "rename them" if settings.rename_input else "rename them, or carry them as 'input_NAME' with --rename-input"
    )
    raise InputError(f"{path}: columns {', '.join(map(repr, columns))} have names of the output's columns; {advice}")


def _is_network(field: Field) -> bool:
    return isinstance(field.kind, Several) and field.kind.networks


def _check_type(field: Field, column: str, schema: pa.Schema, files: Sequence[InputFile]) -> None:
    kind = schema.field(column).type
    wanted = accepts(field, kind)
    if wanted is not None:
        names = ((file, own_names(file, schema, [column]).get(column)) for file in files)
        own = {file.path: file.schema.field(name).type for file, name in names if name is not None}
        path = next((path for path, kind in own.items() if accepts(field, kind)), files[0].path)
        called = f"column {column!r}" + (f" ({field.name})" if column != field.name else "")
        raise InputError(f"{path}: {called} holds {own.get(path, kind)}; expected {wanted}")


def _refuse_unwritable(schema: pa.Schema, path: str) -> None:
    kinds: set[pa.DataType] = set()
    for field in schema:
        if field.type in kinds:
            continue
        kinds.add(field.type)
        try:
            # Not tested with an empty table: Arrow cannot build one of every type that it can write.
            pq.ParquetWriter(io.BytesIO(), pa.schema([field])).close()
        except pa.ArrowException as exc:
            raise InputError(f"{path}: column {field.name!r} holds {field.type}, which Parquet cannot store") from exc


def _like(name: str, names: Iterable[str]) -> str:
    close = difflib.get_close_matches(name, names, n=1)
    return f"; did you mean {close[0]!r}?" if close else f"; it has: {', '.join(map(repr, names))}"
