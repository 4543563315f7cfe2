"""`--config FILE`: options in a file, each read by the option's own parser."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from typing import Any

from sdbatch.cli.config_file import ConfigValue, read_config
from sdbatch.cli.options import Column, Listed, Parser, json_object
from sdbatch.errors import UsageError
from sdbatch.option_kinds import Names
from sdbatch.settings import did_you_mean

__all__ = ["apply_config"]

AS_YAML = str.maketrans({"=": ": ", "[": "", "]": ""})
NOT_IN_A_FILE = ("help", "config")


def apply_config(argv: Sequence[str] | None, parsers: Sequence[argparse.ArgumentParser]) -> None:
    """Set the values in the `--config FILE` of `argv` as defaults of all `parsers`.

    An option that only some of them have is checked and set only there: a file for `generate` works for `plan`, too.

    Raises:
        UsageError: the file cannot be read, or holds a value that the command line would refuse.
    """
    finder = Parser(prog="sdbatch", add_help=False)
    finder.add_argument("--config", action="append", default=[], metavar="FILE")
    for path in finder.parse_known_args(argv)[0].config:
        _apply(read_config(path), parsers)


def _apply(config: Mapping[str, ConfigValue], parsers: Sequence[argparse.ArgumentParser]) -> None:
    options = [{a.dest: a for a in parser._actions if a.dest not in NOT_IN_A_FILE} for parser in parsers]
    known = sorted(set().union(*options))
    for name, value in config.items():
        if name not in known:
            raise UsageError(f"{value.place}: unknown option {name!r}{did_you_mean(name, known)}")
        for actions in options:
            if action := actions.get(name):
                action.default = _read(action, name, value)
                action.required = False
                if not action.option_strings:  # PROMPTS and OUT
                    action.nargs = "?"


def _names(kind: Names, name: str, value: ConfigValue) -> dict[str, str]:
    if kind.alone and value.kind == "str":
        return dict(kind.parse("", value.text))
    try:
        return dict(kind.check("", {name: "" if item is None else item for name, item in value.items.items()}))
    except UsageError as exc:
        expected = "text or a number" if kind.plain else "text"
        raise UsageError(f"{value.place}: {name}: expected {expected} for each name") from exc


def _read(action: argparse.Action, name: str, value: ConfigValue) -> Any:
    def wrong(wanted: str) -> UsageError:
        given = "a list" if value.kind == "seq" else "a mapping" if value.kind == "map" else repr(value.text[:60])
        return UsageError(f"{value.place}: {name} is {given}; expected {wanted}")

    if action.nargs == 0:
        if value.kind != "bool":
            raise wrong("true or false, without quotes")
        return value.text.lower() in ("true", "yes", "on")
    if isinstance(action, Column):
        if value.kind != "map" and not (action.kind.alone and value.kind == "str"):
            raise wrong(f"a mapping, such as {{{str(action.metavar).translate(AS_YAML)}}}")
        return _names(action.kind, name, value)
    if isinstance(action, Listed):
        if value.kind != "seq":
            raise wrong("a list, such as [clip, nsfw]")
        return value.sequence
    if action.type is json_object and value.kind == "map":
        return dict(value.items)
    if value.kind in ("seq", "map"):
        raise wrong("one value")
    if value.kind == "null":
        raise UsageError(f"{value.place}: {name} has no value; add one, or remove the line")
    try:
        read = action.type(value.text) if callable(action.type) else value.text
    except (argparse.ArgumentTypeError, ValueError) as exc:
        raise UsageError(f"{value.place}: {name} {exc}") from exc
    if action.choices is not None and read not in action.choices:
        raise wrong(f"one of {', '.join(action.choices)}")
    return read
