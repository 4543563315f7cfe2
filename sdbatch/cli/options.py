"""Options that several commands share, and how they look in --help."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NoReturn

from sdbatch.bounds import Number, Whole
from sdbatch.cli.words import enumerated, printable
from sdbatch.diffusion.request import ROWS
from sdbatch.diffusion.row_fields import FAMILIES
from sdbatch.errors import UsageError
from sdbatch.fields import Field
from sdbatch.kinds import Choice, Flag, Text
from sdbatch.option_kinds import Names, Options, Words
from sdbatch.settings import APPROXIMATIONS, MODEL, MONITORING, OUTPUT, SCORES, TABLE, WORKERS, all_fields
from sdbatch.storage.storage_options import are_unused

__all__ = [
    "RUN_USAGE",
    "Column",
    "Listed",
    "Parser",
    "add_field",
    "add_out",
    "add_run_options",
    "add_storage_options",
    "command",
    "described",
    "json_object",
    "numeric",
    "warn_if_unused",
]

# A usage line with thirty options would hide the required arguments.
RUN_USAGE = "%(prog)s PROMPTS OUT [options]"
# The headings of --help, in order, and the text below each.
GROUPS = {
    MODEL: None,
    ROWS: "Columns of the same names override these.",
    APPROXIMATIONS: "Each changes the picture.",
    TABLE: None,
    OUTPUT: None,
    SCORES: None,
    WORKERS: None,
    MONITORING: None,
}
PROMPTS_HELP = (
    "a table (Parquet, CSV, TSV, JSON Lines, JSON, Excel, Arrow, .txt), a folder or glob of them, local or s3://…; "
    "or one prompt"
)


class Parser(argparse.ArgumentParser):
    """An argument parser without abbreviations that reports an error in one line and shows epilogs unchanged."""

    def __init__(self, **options: Any) -> None:
        super().__init__(formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False, **options)

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: error: {printable(message)} (see {self.prog} --help)\n")


def command(
    commands: Any, name: str, run: Any, summary: str, epilog: str, usage: str | None = None
) -> argparse.ArgumentParser:
    """Add the command `name`; `run` is called with its arguments and returns an exit status."""
    description = summary[0].upper() + summary[1:] + "."
    parser = commands.add_parser(name, help=summary, description=description, epilog=epilog, usage=usage)
    parser.set_defaults(command=run)
    return parser


def add_run_options(parser: argparse.ArgumentParser) -> None:
    """Add PROMPTS, OUT, and an option for each setting of a run."""
    for name, help in (("prompts", PROMPTS_HELP), ("out", "folder or URL to fill; a second run resumes")):
        parser.add_argument(name, metavar=name.upper(), help=help)
    parser.add_argument(
        "--config",
        action=_Read,
        default=argparse.SUPPRESS,
        metavar="FILE",
        help="options by name, in YAML",
    )
    _add_fields(parser, all_fields())


def _add_fields(parser: argparse.ArgumentParser, fields: Sequence[Field]) -> None:
    """Add an option for each field, in the groups of `GROUPS`, then in those that tasks and families name."""
    headings = dict.fromkeys([*GROUPS, *(field.group or ROWS for field in fields)])
    for heading in headings:
        group = parser.add_argument_group(heading, GROUPS.get(heading))
        for field in fields:
            if (field.group or ROWS) == heading:
                add_field(group, field)


def add_field(group: Any, field: Field, **changes: Any) -> None:
    """Add the field's option. If a row can have its own value, the default is None until the model is known."""
    default = None if field.per_row else field.default
    help = described(field).replace("%", "%%")
    kwargs: dict[str, Any] = {"default": default, "help": help, "metavar": field.metavar}
    if isinstance(field.kind, Flag):
        kwargs["action"] = argparse.BooleanOptionalAction if field.per_row else "store_true"
        del kwargs["metavar"]
    elif isinstance(field.kind, Names):
        kwargs["action"] = Column
    elif isinstance(field.kind, Words):
        kwargs["action"] = Listed
    elif isinstance(field.kind, Choice):
        kwargs["choices"] = field.kind.words
        del kwargs["metavar"]
    elif not isinstance(field.kind, Text):
        kwargs["type"] = json_object if isinstance(field.kind, Options) else reader(field)
    option = group.add_argument(field.option, **kwargs | changes)
    if isinstance(option, Column) and isinstance(field.kind, Names):
        option.kind = field.kind
    if field.name == "sampler":
        option.completer = _samplers  # argcomplete looks for this attribute


def reader(field: Field) -> Callable[[str], Any]:
    """Return the parser of the field's option."""
    return _reading(field.option, field.kind.parse)


def numeric(name: str, bound: Whole | Number) -> Callable[[str], float]:
    """Return the parser of the numeric option `name`."""
    return _reading(name, bound.parse)


def json_object(text: str) -> Mapping[str, Any]:
    """Parse the value of an option that takes a JSON object."""
    return _reading("", Options().parse)(text)


def _reading(name: str, parse: Callable[[str, str], Any]) -> Callable[[str], Any]:
    def read(text: str) -> Any:
        try:
            return parse(name, text)
        except UsageError as error:
            raise argparse.ArgumentTypeError(str(error).removeprefix(f"{name} ").strip()) from error

    return read


def described(field: Field) -> str:
    """The field's help, with its default unless the help already states it."""
    if "default" in field.help:
        return field.help
    stated = _stated_defaults(field)
    return "; ".join(part for part in (field.help, stated) if part)


def _stated_defaults(field: Field) -> str:
    """The common default, or that of each family that has its own."""
    families: dict[Any, list[str]] = {}
    if not field.per_row:
        default = field.effective_default
        return f"default {_plain(default)}" * _is_worth_saying(default)
    for family in FAMILIES:
        default = family.defaults.get(field.name, field.of_family.get(family.name, field.effective_default))
        families.setdefault(default, []).append(family.name)
    worth = {value: names for value, names in families.items() if _is_worth_saying(value)}
    if len(families) == 1:
        return "".join(f"default {_plain(value)}" for value in worth)
    return "default: " + "; ".join(f"{_plain(value)} for {enumerated(names)}" for value, names in worth.items())


def _is_worth_saying(default: Any) -> bool:
    return isinstance(default, str | float | int) and not isinstance(default, bool) and default != ""


def _plain(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


def add_out(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("out", metavar="OUT", help="an output folder or URL")
    add_storage_options(parser)


def warn_if_unused(storage_options: Mapping[str, Any], *places: str | None, besides: str = "") -> None:
    """Print a warning if there are storage options, and no place that the command reads or writes is a URL.

    Args:
        besides: what else may use them.
    """
    if are_unused(storage_options, places):
        users = f"; only {besides} use them" if besides else ""
        print(f"warning: --storage-options: no effect, since all paths are local{users}", file=sys.stderr)


def add_storage_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--storage-options", type=json_object, default={}, metavar="JSON", help="a JSON object for fsspec"
    )


class _Read(argparse.Action):
    """An option that was handled before parsing."""

    def __call__(self, parser: Any, namespace: Any, value: Any, option_string: str | None = None) -> None:
        return


class Listed(argparse.Action):
    """Collects arguments into one tuple."""

    def __call__(self, parser: Any, namespace: Any, value: Any, option_string: str | None = None) -> None:
        setattr(namespace, self.dest, (*getattr(namespace, self.dest), value))


class Column(argparse.Action):
    """Collects NAME=VALUE arguments into one dict."""

    kind = Names()

    def __call__(self, parser: Any, namespace: Any, value: Any, option_string: str | None = None) -> None:
        try:
            ((name, column),) = self.kind.parse("", value).items()
        except UsageError:
            parser.error(f"{option_string} {value!r}: expected {self.metavar}")
        given = getattr(namespace, self.dest)
        earlier = given.get(name)
        if earlier not in (None, column, self.default.get(name)):  # a configuration file's value may be replaced
            parser.error(f"{option_string} {name}: is given twice, as {earlier!r} and {column!r}")
        setattr(namespace, self.dest, {**given, name: column})


def _samplers(**context: Any) -> list[str]:
    from sdbatch.diffusion.samplers.catalogue import SAMPLERS

    return list(SAMPLERS)
