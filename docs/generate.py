"""Generates files from the declarations of settings; `make docs` runs it, and a test compares.

sdbatch/run_options.py   the keywords of `sdbatch.generate`, for type checkers
docs/options.md          every option of `generate` and `plan`
docs/api.md              everything in `import sdbatch`
docs/formats.md          the tables between its `<!-- generated: … -->` marks
README.md                likewise
"""

from __future__ import annotations

import inspect
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import sdbatch
from sdbatch.bounds import Number, Whole
from sdbatch.cli.options import GROUPS, described
from sdbatch.cli.words import enumerated
from sdbatch.diffusion.request import ROW_FIELDS, ROWS
from sdbatch.diffusion.row_fields import FAMILIES
from sdbatch.diffusion.tasks import TASKS
from sdbatch.fields import UNRECORDED, Field, Kind
from sdbatch.kinds import Choice, Flag, Picture, Pictures, Seed, Several, Text
from sdbatch.option_kinds import Names, Options, Pair, Sizes, Words
from sdbatch.output.metadata import OUTCOME, setting_types
from sdbatch.settings import all_fields
from sdbatch.weighted_files import WeightedFiles

__all__ = ["generated", "main"]

REPOSITORY = Path(__file__).resolve().parent.parent
PYTHON_TYPES = {
    Text: "str",
    Choice: "str",
    Flag: "bool",
    Picture: "str",
    Pictures: "str | Sequence[str]",
    WeightedFiles: "str | Sequence[str]",
    Seed: "int",
    Sizes: "str",
    Whole: "int",
    Number: "float",
    Pair: "tuple[int, int]",
    Names: "Mapping[str, str]",
    Words: "Sequence[str]",
    Options: "Mapping[str, Any]",
}
OF_THE_RUN = "the run's"
METADATA_NOTES = {
    "model": "",
    "status": "`ok` or `failed`",
    "error": "why it failed",
    "sha256": "of the image file",
    "prompt_tokens": "of the prompt, before it was truncated to the model's limit",
    "prompt_truncated": "whether it was truncated",
}


def generated() -> dict[Path, str]:
    """Every file that follows from the declarations, and what it must hold."""
    files = {
        REPOSITORY / "sdbatch" / "run_options.py": _run_options(),
        REPOSITORY / "docs" / "options.md": _options_page(),
        REPOSITORY / "docs" / "api.md": _api_page(),
    }
    for page in (REPOSITORY / "docs" / "formats.md", REPOSITORY / "README.md"):
        files[page] = _with_tables(page.read_text())
    return files


def main() -> int:
    for path, text in generated().items():
        path.write_text(text)
    return 0


def _with_tables(page: str) -> str:
    tables = {"columns": _columns_table, "metadata": _metadata_table, "columns in short": _short_table}
    for name, table in tables.items():
        marks = rf"(<!-- generated: {name} -->\n).*?(<!-- end -->)"
        text = table().replace("|  |", "| |")
        page = re.sub(marks, lambda match, text=text: f"{match[1]}{text}{match[2]}", page, flags=re.DOTALL)
    return page


def _columns_table() -> str:
    lines = _column_lines(ROW_FIELDS)
    for declarations, one, many in ((TASKS, "the task", "the tasks"), (FAMILIES, "the family", "the families")):
        owners: dict[tuple[Field, ...], list[str]] = {}
        for owner in declarations:
            if owner.fields:
                owners.setdefault(tuple(owner.fields), []).append(f"`{owner.name}`")
        for fields, names in owners.items():
            who, verb = (one, "has") if len(names) == 1 else (many, "have")
            lines += ["", f"Only {who} {enumerated(names)} {verb}:", "", *_column_lines(fields)]
    return "\n".join(lines) + "\n"


def _column_lines(fields: Sequence[Field]) -> list[str]:
    return ["| column | also called | types | null |", "|---|---|---|---|", *map(_column_line, fields)]


def _column_line(field: Field) -> str:
    return f"| `{field.name}` | {_other_names(field)} | {_types(field)} | {field.null_text or OF_THE_RUN} |"


def _short_table() -> str:
    lines = ["| column | also called | |", "|---|---|---|"]
    lines += [f"| `{field.name}` | {_other_names(field)} | {field.short} |" for field in ROW_FIELDS]
    return "\n".join(lines) + "\n"


def _other_names(field: Field) -> str:
    names = ", ".join(f"`{name}`" for name in field.names[1:])
    last = ", ".join(f"`{name}`" for name in field.last_aliases)
    return f"{names}; {last} if there is none of these" if last else names


def _types(field: Field) -> str:
    if field.types:
        return field.types
    kind = field.cell or field.kind
    if isinstance(kind, Whole):
        return f"whole numbers from {kind.minimum}" + ("" if kind.maximum >= 2**62 else f" to {kind.maximum:,}")
    if isinstance(kind, Number):
        return "numbers" if kind.minimum < -1e300 else f"numbers from {kind.minimum:g} to {kind.maximum:g}"
    return str(kind)


def _metadata_table() -> str:
    lines = [
        "| column | type | |",
        "|---|---|---|",
        "| `key` | string | |",
        "| `file_name` | string | layout `files`: relative to the output folder; null if the row failed |",
        "| `image` | struct<bytes, path> | layout `parquet`: the image file; null if the row failed |",
    ]
    own = [field for owner in (*TASKS, *FAMILIES) for field in owner.fields]
    fields = {field.recorded_as: field for field in (*ROW_FIELDS, *own)}
    types = setting_types(tuple(fields.values()))
    lines += [f"| `{name}` | {kind} | {_note_of(name, fields)} |" for name, kind in types.items()]
    lines += [f"| `{name}` | {kind} | {METADATA_NOTES[name]} |" for name, kind in OUTCOME.items()]
    return "\n".join(lines) + "\n"


def _note_of(name: str, fields: Mapping[str, Field]) -> str:
    if name in fields:
        return _metadata_note(fields[name])
    picture = fields[name.removesuffix("_sha256")]
    return "; ".join(
        part
        for part in (
            _metadata_note(picture),
            "of its file" if isinstance(picture.kind, Picture) else "sha256 of the files",
        )
        if part
    )


def _metadata_note(field: Field) -> str:
    later = "not in outputs that were created before it was a column"
    owners = [f"`{owner.name}`" for owner in (*TASKS, *FAMILIES) if field in owner.fields]
    if field.only_if_used:
        later = "only where the table or an option names it"
    only = f"only {enumerated(owners)}" if owners else ""
    parts = [only, field.notes, later * (field.before is not UNRECORDED)]
    return "; ".join(part for part in parts if part)


def _options_page() -> str:
    fields = all_fields()
    parts = [
        "# Options",
        "",
        "The options of `sdbatch generate` and `sdbatch plan`. A `--config` file takes the same names, and",
        "`sdbatch.generate` takes them with underscores. A column of the table overrides the option of its name.",
        "An option that the model or the task does not use is refused.",
    ]
    for heading in dict.fromkeys([*GROUPS, *(field.group or ROWS for field in fields)]):
        rows = [field for field in fields if (field.group or ROWS) == heading]
        parts += ["", f"## {heading[0].upper()}{heading[1:]}", "", "| option | value | |", "|---|---|---|"]
        parts += [f"| `{field.option}` | {_value(field)} | {_cell(described(field))} |" for field in rows]
    return "\n".join(parts).replace("|  |", "| |") + "\n"


def _value(field: Field) -> str:
    if isinstance(field.kind, Flag):
        return f"or `--no-{field.option[2:]}`" if field.per_row else ""
    return _cell(str(field.kind) if not isinstance(field.kind, Seed) else "a whole number from 0 to 2⁶⁴ − 1")


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


def _run_options() -> str:
    fields = sorted(all_fields(), key=lambda field: field.name)
    lines = [
        '"""The keywords of `sdbatch.generate`. Written by docs/generate.py; not to be edited."""',
        "",
        "from __future__ import annotations",
        "",
        "from collections.abc import Mapping, Sequence",
        "from typing import Any, TypedDict",
        "",
        '__all__ = ["RunOptions"]',
        "",
        "",
        "class RunOptions(TypedDict, total=False):",
        '    """The options of a run by name; each is optional."""',
        "",
    ]
    lines += [_keyword(field) for field in fields]
    return "\n".join(lines) + "\n"


def _keyword(field: Field) -> str:
    one = PYTHON_TYPES[type(field.kind.of)] if isinstance(field.kind, Several) else None
    kind = f"{one} | Sequence[{one}]" if one else _python_type(field.kind)
    optional = " | None" if field.default is None or field.per_row else ""
    return f"    {field.name}: {kind}{optional}"


def _python_type(kind: Kind) -> str:
    if isinstance(kind, Names) and kind.alone:
        return "str | Mapping[str, str]"
    if isinstance(kind, Names) and kind.plain:
        return "Mapping[str, str | float | bool]"
    return PYTHON_TYPES[type(kind)]


def _api_page() -> str:
    parts = ["# API", "", "The names in `import sdbatch`. The command line's options are in [options.md](options.md)."]
    for name in sorted(sdbatch.__all__, key=str.lower):
        parts += ["", f"## `sdbatch.{name}`", "", "```text", *_described(name, getattr(sdbatch, name)), "```"]
    return "\n".join(parts) + "\n"


def _described(name: str, thing: Any) -> Iterator[str]:
    """Signature and docstring, then those of a class's public methods and properties."""
    is_class = inspect.isclass(thing)
    if is_class and issubclass(thing, Exception):
        yield f"class {name}({', '.join(base.__name__ for base in thing.__bases__)})"
    else:
        yield _signature(name, thing)
    yield from ("", *inspect.getdoc(thing).splitlines())
    for own in vars(thing).values() if is_class else ():
        member = own.fget if isinstance(own, property) else getattr(own, "__func__", own)
        if inspect.isfunction(member) and not member.__name__.startswith("_") and member.__doc__:
            shown = f"{member.__name__}" if isinstance(own, property) else _signature(member.__name__, member)
            yield from ("", shown, *(f"    {line}".rstrip() for line in inspect.getdoc(member).splitlines()))


def _signature(name: str, thing: Any) -> str:
    signature = inspect.signature(thing)
    parameters = [parameter for parameter in signature.parameters.values() if parameter.name != "self"]
    shown = [_parameter(parameter) for parameter in parameters]
    by_name = next((i for i, parameter in enumerate(parameters) if parameter.kind is parameter.KEYWORD_ONLY), None)
    if by_name is not None:
        shown.insert(by_name, "*")
    returned = signature.return_annotation
    end = ")" if returned in (inspect.Signature.empty, None, "None") else f") -> {_type(returned)}"
    line = f"{name}({', '.join(shown)}{end}"
    return line if len(line) <= 100 else "\n".join([f"{name}(", *(f"    {text}," for text in shown), end])


def _parameter(parameter: inspect.Parameter) -> str:
    stars = {parameter.VAR_KEYWORD: "**", parameter.VAR_POSITIONAL: "*"}.get(parameter.kind, "")
    text = f"{stars}{parameter.name}: {_type(parameter.annotation)}"
    if parameter.default is parameter.empty:
        return text
    return f"{text} = {getattr(parameter.default, '__name__', repr(parameter.default))}"


def _type(annotation: Any) -> str:
    text = annotation if isinstance(annotation, str) else inspect.formatannotation(annotation)
    return re.sub(r"\b(typing|collections\.abc|pathlib|sdbatch(\.\w+)*)\.", "", text)


if __name__ == "__main__":
    sys.exit(main())
