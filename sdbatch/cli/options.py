"""What several commands can be told, and how they look in --help."""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from typing import Any, NoReturn

from sdbatch.settings import DEVICES, DTYPES, IMAGE_FORMATS, LAYOUTS, QUANTIZATIONS, SWITCHES, RunSettings

__all__ = ["RUN_USAGE", "Parser", "add_out", "add_run_options", "command", "read_config"]

# Thirty options in the place of a usage line would hide what one has to give.
RUN_USAGE = "%(prog)s PROMPTS OUT [options]"
DEFAULTS = RunSettings()
PROMPTS_HELP = "a table (Parquet, CSV, TSV, JSON Lines, .txt), a folder or glob of them, local or s3://…; or one prompt"


class Parser(argparse.ArgumentParser):
    """Shows epilogs as they are written, wants options spelt out, and tells a mistake in one line."""

    def __init__(self, **options: Any) -> None:
        super().__init__(formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False, **options)

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: error: {message} (see {self.prog} --help)\n")


def command(
    commands: Any, name: str, run: Any, summary: str, epilog: str, usage: str | None = None
) -> argparse.ArgumentParser:
    """A parser for the command `name`, whose arguments `run` is called with; it returns an exit status."""
    description = summary[0].upper() + summary[1:] + "."
    parser = commands.add_parser(name, help=summary, description=description, epilog=epilog, usage=usage)
    parser.set_defaults(command=run)
    return parser


def add_run_options(parser: argparse.ArgumentParser, config: Mapping[str, Any]) -> None:
    """PROMPTS, OUT, and an option for each setting of a run.

    Args:
        config: options by name, as read from a `--config` file: the defaults of what the command line leaves out.
    """
    for name, help in (("prompts", PROMPTS_HELP), ("out", "folder or URL to fill; a second run resumes")):
        # In the file, PROMPTS and OUT need not be on the command line.
        parser.add_argument(name, metavar=name.upper(), help=help, **({"nargs": "?"} if name in config else {}))
    parser.add_argument(
        "--config",
        action=_Read,
        default=argparse.SUPPRESS,
        metavar="FILE",
        help="options by name, in YAML",
    )
    _add_picture_options(parser)
    _add_data_options(parser)
    _add_worker_options(parser)


def _add_picture_options(parser: argparse.ArgumentParser) -> None:
    """What is in the pictures."""
    model = parser.add_argument_group("model")
    _option(
        model,
        "--model",
        "`tiny` (built in, the default), a folder in diffusers' format, local or s3://…, or a hub id",
        metavar="NAME|DIR",
    )
    _option(model, "--revision", "branch, tag or commit of a model on the hub", metavar="REV")
    _option(model, "--variant", "of the weight files, such as fp16", metavar="NAME")

    rows = parser.add_argument_group("what a row does not say itself", "Columns of the same names go before these.")
    sampler = rows.add_argument(
        "--sampler", default=DEFAULTS.sampler, metavar="NAME", help="ddim, euler_a, dpmpp_2m, …; default %(default)s"
    )
    sampler.completer = _samplers  # type: ignore[attr-defined]  # argcomplete's own way
    _option(rows, "--steps", "default %(default)s", type=int, metavar="N")
    _option(rows, "--guidance-scale", "default %(default)s; 1 or less is none", type=float, metavar="G")
    _option(rows, "--negative-prompt", "default: none", metavar="TEXT")
    _option(rows, "--height", "pixels; default: the model's own", type=int, metavar="H")
    _option(rows, "--width", "pixels; default: the model's own", type=int, metavar="W")
    _option(rows, "--seed", "rows without a seed get one from this and their place", type=int, metavar="S")

    alike = parser.add_argument_group("guidance, for all rows alike")
    _option(
        alike, "--guidance-rescale", "0 to 1, takes back contrast (Lin et al. 2023); default 0", type=float, metavar="F"
    )
    _option(
        alike, "--guidance-start", "guidance from this share of the calls on, 0 to 1; default 0",
        type=float, metavar="F",
    )  # fmt: skip
    _option(
        alike, "--guidance-stop", "and no longer than to this one: faster, and changes the picture; default 1",
        type=float, metavar="F",
    )  # fmt: skip

    approximate = parser.add_argument_group("approximations, for all rows alike", "Each changes the picture.")
    _option(
        approximate, "--deep-cache", "inner layers of the UNet at every N-th call only (DeepCache): faster; default 1",
        type=int, metavar="N",
    )  # fmt: skip
    _option(
        approximate, "--quantization", "int8: weights of the UNet in eight bits, less memory; default none",
        choices=QUANTIZATIONS,
    )  # fmt: skip


def _add_data_options(parser: argparse.ArgumentParser) -> None:
    """What is read and written."""
    table = parser.add_argument_group("table")
    table.add_argument(
        "--column", default={}, action=_Mapping, metavar="NAME=COLUMN",
        help="the column that holds the prompt (or another setting) when it is called otherwise; "
        "NAME= if a column of that name is none; repeatable",
    )  # fmt: skip
    _option(table, "--part", "only the I-th of N parts of the shards, for N jobs on one OUT", type=_part, metavar="I/N")

    output = parser.add_argument_group("output")
    _option(output, "--images-per-prompt", "default %(default)s; image i uses seed + i", type=int, metavar="N")
    _option(output, "--layout", "default %(default)s", choices=LAYOUTS)
    _option(output, "--image-format", "default %(default)s", choices=IMAGE_FORMATS)
    _option(output, "--image-quality", "1 to 100; default: 95 of JPEG, WebP without loss", type=int, metavar="Q")
    _option(
        output, "--shard-size", "images a shard; chosen from the size of the table, if not here", type=int, metavar="N"
    )
    output.add_argument("--overwrite", action="store_true", help="start OUT anew; without it a second run resumes")
    _option(
        output, "--storage-options", "for fsspec, a JSON object; of PROMPTS and OUT", type=_json_object, metavar="JSON"
    )


def _add_worker_options(parser: argparse.ArgumentParser) -> None:
    """Who makes it."""
    workers = parser.add_argument_group("workers")
    _option(workers, "--actors", "default: as many as the cluster has room for", type=_range, metavar="N|MIN:MAX")
    _option(workers, "--gpus-per-actor", "default: 1 on cuda, else 0", type=float, metavar="F")
    _option(workers, "--cpus-per-actor", "default: 1; on a CPU also the threads of its model", type=float, metavar="N")
    _option(workers, "--lanes", "UNet batch size; part of what makes a picture reproducible", type=int, metavar="L")
    _option(workers, "--dtype", "default %(default)s: fp16 on a GPU, fp32 on a CPU", choices=DTYPES)
    _option(workers, "--device", "default %(default)s: a GPU if Ray has one", choices=DEVICES)
    _option(workers, "--compile", "torch.compile; default %(default)s: on a GPU", choices=SWITCHES)
    _option(workers, "--address", "an existing Ray cluster; default: RAY_ADDRESS, else a local one", metavar="ADDR")


def _option(group: Any, name: str, help: str, **kwargs: Any) -> None:
    """An option that is a field of `RunSettings`, whose default is the field's."""
    field = name.removeprefix("--").replace("-", "_")
    group.add_argument(name, default=getattr(DEFAULTS, field), help=help, **kwargs)


def add_out(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("out", metavar="OUT", help="an output folder or URL")
    parser.add_argument(
        "--storage-options", type=_json_object, default={}, metavar="JSON", help="a JSON object for fsspec"
    )


def read_config(argv: Sequence[str] | None) -> dict[str, Any]:
    """The options in the file that `--config` names among `argv`, which must be known before the rest is parsed.

    Raises:
        UsageError: the file cannot be read, or holds no options.
    """
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--config")
    path = parser.parse_known_args(argv)[0].config
    if path is None:
        return {}
    from sdbatch.config_file import read_config

    return read_config(path)


class _Read(argparse.Action):
    """An option that did its work before parsing began."""

    def __call__(self, parser: Any, namespace: Any, value: Any, option_string: str | None = None) -> None:
        return


class _Mapping(argparse.Action):
    """Collects NAME=COLUMN arguments into one dict."""

    def __call__(self, parser: Any, namespace: Any, value: Any, option_string: str | None = None) -> None:
        name, equals, column = value.partition("=")
        if not (name and equals):
            parser.error(f"{option_string} {value!r}: wanted NAME=COLUMN")
        setattr(namespace, self.dest, {**getattr(namespace, self.dest), name: column})


def _samplers(**context: Any) -> list[str]:
    from sdbatch.diffusion.samplers import SAMPLERS

    return list(SAMPLERS)


def _range(text: str) -> tuple[int, int]:
    least, colon, most = text.partition(":")
    try:
        return int(least), int(most if colon else least)
    except ValueError as exc:
        raise argparse.ArgumentTypeError(f"{text!r}: wanted N or MIN:MAX, such as 4 or 0:16") from exc


def _part(text: str) -> tuple[int, int]:
    index, _, parts = text.partition("/")
    try:
        return int(index), int(parts)
    except ValueError as exc:
        raise argparse.ArgumentTypeError(f"{text!r}: wanted I/N, such as 1/4") from exc


def _json_object(text: str) -> dict[str, Any]:
    try:
        value = json.loads(text)
    except ValueError as exc:
        raise argparse.ArgumentTypeError(f"is not JSON: {exc}") from exc
    if not isinstance(value, dict):
        raise argparse.ArgumentTypeError("wanted a JSON object, such as '{\"anon\": true}'")
    return value
