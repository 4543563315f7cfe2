"""The `sdbatch` command: options in, words and an exit status out. No logic of its own."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from typing import Any

from sdbatch import __version__
from sdbatch.errors import SdbatchError
from sdbatch.settings import DEVICES, DTYPES, IMAGE_FORMATS, LAYOUTS, SWITCHES, RunSettings

__all__ = ["main"]

EXIT_STATUSES = """\
exit status:
  0  every row has its image        2  bad usage or bad input, told before any model is loaded
  1  the run ended, some rows failed   3  the run itself broke; running it again resumes
"""

GENERATE_EXAMPLES = """\
examples:
  sdbatch generate prompts.parquet out/
  sdbatch generate 's3://bucket/prompts/*.parquet' s3://bucket/images --model ./stable-diffusion-v1-5
  sdbatch generate prompts.parquet out/ --sampler dpmpp_2m --steps 20 --guidance-scale 7 --seed 1
"""


POSITIONALS: dict[str, dict[str, Any]] = {
    "prompts": {"metavar": "PROMPTS", "help": "a Parquet file, a folder or glob of them, local or s3://…"},
    "out": {"metavar": "OUT", "help": "folder or URL to fill; a second run resumes"},
}
STATUS_EXIT = "exit status: 0 all done and ok, 1 something is missing or failed, 2 not an output"
VERIFY_EXIT = "exit status: 0 all as it should be, 1 some shards are not (they are listed), 2 not an output"


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line `argv` (default: the process's own) and return its exit status."""
    try:
        arguments = vars(_parser(_config(argv)).parse_args(argv))
        command = arguments.pop("command")
        return command(**arguments)
    except SdbatchError as error:
        print(f"sdbatch: error: {error}", file=sys.stderr)
        return error.exit_status
    except KeyboardInterrupt:
        print("\nsdbatch: interrupted; run the same command again to go on", file=sys.stderr)
        return 3


def _generate(prompts: str, out: str, log_format: str, **options: Any) -> int:
    from sdbatch.log_lines import LogLines
    from sdbatch.pipeline import generate
    from sdbatch.progress import ProgressLine

    progress = LogLines(sys.stderr) if log_format == "json" else ProgressLine(sys.stderr, sys.stdout)
    try:
        report = generate(prompts, out, progress=progress, **options)
    except SdbatchError as error:
        progress.fail(error)
        return error.exit_status
    progress.end(report)
    return report.exit_status


def _plan(prompts: str, out: str, **options: Any) -> int:
    from sdbatch.plan import make_plan

    plan = make_plan(prompts, out, RunSettings.from_options(options))
    print(
        f"{plan.rows:,} rows in {len(plan.files):,} files → {len(plan.shards):,} shards of up to "
        f"{plan.record.shard_rows:,} rows; {len(plan.todo):,} to do"
    )
    return 0


def _status(out: str, storage_options: dict[str, Any]) -> int:
    from sdbatch.status import status

    state = status(out, storage_options)
    print(
        f"{state.url}: {state.done:,} of {state.shards:,} shards done, "
        f"{state.ok + state.failed:,} of {state.images:,} images: {state.ok:,} ok, {state.failed:,} failed"
    )
    for reason, count in state.reasons.items():
        print(f"  {count:,} failed: {reason}")
    return 1 if state.failed or not state.complete else 0


def _verify(
    out: str, sample: int | None, repair: bool, remake: int, model: str | None, storage_options: dict[str, Any]
) -> int:
    from sdbatch.verify import verify

    report = verify(out, storage_options, sample=sample, repair=repair)
    for shard, problems in report.bad.items():
        for problem in problems:
            print(f"shard {shard:05d}: {problem}")
    for name in report.surplus:
        print(f"{name} belongs to no shard of this run")
    print(
        f"{report.url}: {report.images:,} images in {report.shards:,} shards looked at, {len(report.bad):,} bad, "
        f"{report.unfinished:,} not finished"
    )
    if report.repaired:
        print(f"{len(report.repaired):,} markers removed; run generate again to make these shards anew")
    if not remake:
        return 0 if report.ok else 1
    from sdbatch.remake import remake as make_again

    again = make_again(out, remake, model=model, options=storage_options)
    for key in again.different:
        print(f"image {key}: made again, it has other bytes")
    print(f"{again.made:,} images made again from their metadata, {len(again.different):,} of them different")
    return 0 if report.ok and again.ok else 1


def _gallery(out: str, limit: int, storage_options: dict[str, Any]) -> int:
    from sdbatch.gallery import write_gallery

    print(f"the gallery is {write_gallery(out, limit=limit, options=storage_options)}")
    return 0


def _sheet(out: str, path: str, columns: int, storage_options: dict[str, Any]) -> int:
    from sdbatch.gallery import write_sheet

    write_sheet(out, path, columns=columns, options=storage_options)
    print(f"the contact sheet is {path}")
    return 0


def _config(argv: Sequence[str] | None) -> dict[str, Any]:
    """The options in the file that `--config` names, read first: they become the defaults of the others."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--config")
    path = parser.parse_known_args(argv)[0].config
    if path is None:
        return {}
    from sdbatch.config_file import read_config

    return read_config(path)


def _parser(config: dict[str, Any]) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="sdbatch",
        description="Turn a table of prompts into a dataset of images with Stable Diffusion, on Ray.",
        epilog=EXIT_STATUSES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"sdbatch {__version__}")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    generate = _command(
        commands,
        "generate",
        _generate,
        "make the images of a prompt table",
        GENERATE_EXAMPLES + "\n" + EXIT_STATUSES,
    )
    plan = _command(commands, "plan", _plan, "say what generate would do; runs nothing", GENERATE_EXAMPLES)
    for command in (generate, plan):
        _add_run_options(command)
        # In the file, PROMPTS and OUT need not be on the command line.
        for name in ("prompts", "out"):
            command.add_argument(name, **({"nargs": "?"} if name in config else {}), **POSITIONALS[name])
        command.add_argument(
            "--config",
            action=_Read,
            default=argparse.SUPPRESS,
            metavar="FILE",
            help="options by name, as YAML; these go first",
        )
        command.set_defaults(**config)
    generate.add_argument("--log-format", default="text", choices=("text", "json"), help="default %(default)s")
    status = _command(commands, "status", _status, "what of an output is done, missing and failed", STATUS_EXIT)
    _add_out(status)
    verify = _command(commands, "verify", _verify, "check every image of an output against its metadata", VERIFY_EXIT)
    _add_out(verify)
    verify.add_argument("--sample", type=int, metavar="N", help="look only at N shards, chosen at random")
    verify.add_argument(
        "--repair", action="store_true", help="remove the markers of bad shards, so that generate makes them again"
    )
    verify.add_argument(
        "--remake", type=int, default=0, metavar="N",
        help="make N images, chosen at random, again from their metadata rows, and compare the bytes",
    )  # fmt: skip
    verify.add_argument("--model", metavar="NAME|DIR", help="for --remake, if the model is not where it was")
    gallery = _command(commands, "gallery", _gallery, "a page to look through, search and filter an output", "")
    _add_out(gallery)
    gallery.add_argument("--limit", type=int, default=50_000, metavar="N", help="rows at most; default %(default)s")
    sheet = _command(commands, "sheet", _sheet, "a contact sheet PNG of an output, prompts under the pictures", "")
    _add_out(sheet)
    sheet.add_argument("path", metavar="PATH", help="the PNG to write")
    sheet.add_argument("--columns", type=int, default=6, metavar="N", help="default %(default)s")
    return parser


def _command(commands: Any, name: str, run: Any, summary: str, epilog: str) -> argparse.ArgumentParser:
    command = commands.add_parser(
        name,
        help=summary,
        description=summary[0].upper() + summary[1:] + ".",
        epilog=epilog,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    command.set_defaults(command=run)
    return command


def _add_run_options(command: argparse.ArgumentParser) -> None:
    defaults = RunSettings()

    def option(group: Any, name: str, help: str, **kwargs: Any) -> None:
        field = name.removeprefix("--").replace("-", "_")
        group.add_argument(name, default=getattr(defaults, field), help=help, **kwargs)

    model = command.add_argument_group("model")
    option(
        model,
        "--model",
        "`tiny` (embedded, the default), a diffusers folder, local or s3://…, or a hub id",
        metavar="NAME|DIR",
    )
    option(model, "--revision", "branch, tag or commit of a model on the hub", metavar="R")
    option(model, "--variant", "of the weight files, such as fp16", metavar="V")

    rows = command.add_argument_group("what a row does not say itself (columns of the same names override these)")
    option(rows, "--sampler", "default %(default)s", metavar="NAME")
    option(rows, "--steps", "default %(default)s", type=int, metavar="N")
    option(rows, "--guidance-scale", "default %(default)s; 1 or less is none", type=float, metavar="G")
    option(
        rows, "--guidance-rescale", "0 to 1, takes back contrast (Lin et al. 2023); default 0", type=float, metavar="F"
    )
    option(rows, "--negative-prompt", "default: none", metavar="TEXT")
    option(rows, "--height", "pixels; default: the model's own", type=int, metavar="H")
    option(rows, "--width", "pixels; default: the model's own", type=int, metavar="W")
    option(rows, "--seed", "rows without a seed get one from this and their place", type=int, metavar="S")

    output = command.add_argument_group("output")
    option(output, "--images-per-prompt", "default %(default)s; image i uses seed + i", type=int, metavar="N")
    option(output, "--layout", "default %(default)s", choices=LAYOUTS)
    option(output, "--image-format", "default %(default)s", choices=IMAGE_FORMATS)
    output.add_argument(
        "--column", default={}, action=_Mapping, metavar="NAME=COLUMN",
        help="the column that holds the prompt (or another setting) when it is called otherwise; repeatable",
    )  # fmt: skip
    option(
        output,
        "--shard-size",
        "images a shard; default: chosen by the planner, kept for OUT",
        type=int,
        metavar="N",
    )
    option(output, "--part", "make only the I-th of N parts of the shards", type=_part, metavar="I/N")
    output.add_argument("--overwrite", action="store_true", help="start OUT anew; without it a second run resumes")
    option(output, "--storage-options", "a JSON object for fsspec", type=_json_object, metavar="JSON")

    where = command.add_argument_group("workers")
    option(where, "--actors", "default: as many as the cluster has room for", type=_range, metavar="N|MIN:MAX")
    option(where, "--gpus-per-actor", "default: 1 on cuda, else 0", type=float, metavar="F")
    option(where, "--cpus-per-actor", "default: 1", type=float, metavar="N")
    option(where, "--lanes", "UNet batch size; part of what makes a picture reproducible", type=int, metavar="L")
    option(where, "--dtype", "default %(default)s", choices=DTYPES)
    option(where, "--device", "default %(default)s", choices=DEVICES)
    option(where, "--compile", "default %(default)s", choices=SWITCHES)
    option(
        where, "--start-timeout", "give up without a worker for this long; default %(default)s", type=float, metavar="S"
    )
    option(where, "--stall-timeout", "restart a worker without progress; default %(default)s", type=float, metavar="S")
    option(where, "--price-per-hour", "of one worker, for the report's cost", type=float, metavar="P")
    option(where, "--address", "an existing Ray cluster; default: RAY_ADDRESS, else a local one", metavar="ADDR")


def _add_out(command: argparse.ArgumentParser) -> None:
    command.add_argument("out", metavar="OUT", help="an output folder or URL")
    command.add_argument(
        "--storage-options", type=_json_object, default={}, metavar="JSON", help="a JSON object for fsspec"
    )


class _Read(argparse.Action):
    """An option that did its work before parsing began."""

    def __call__(self, parser: Any, namespace: Any, value: Any, option_string: str | None = None) -> None:
        return


class _Mapping(argparse.Action):
    """Collects NAME=COLUMN arguments into one dict."""

    def __call__(self, parser: Any, namespace: Any, value: Any, option_string: str | None = None) -> None:
        name, equals, column = value.partition("=")
        if not (name and equals and column):
            parser.error(f"{option_string} {value!r}: wanted NAME=COLUMN")
        setattr(namespace, self.dest, {**getattr(namespace, self.dest), name: column})


def _range(text: str) -> tuple[int, int]:
    least, _, most = text.partition(":")
    return int(least), int(most or least)


def _part(text: str) -> tuple[int, int]:
    index, _, parts = text.partition("/")
    return int(index), int(parts)


def _json_object(text: str) -> dict[str, Any]:
    value = json.loads(text)
    if not isinstance(value, dict):
        raise argparse.ArgumentTypeError("wanted a JSON object")
    return value
