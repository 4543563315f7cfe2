"""`sdbatch generate`."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Mapping
from typing import Any

from sdbatch.cli.options import RUN_USAGE, add_run_options, command
from sdbatch.errors import SdbatchError
from sdbatch.settings import RunSettings

__all__ = ["add"]

EXAMPLES = """\
examples:
  sdbatch generate "a red circle" out/
      one picture, out/00000/000000000.png, with the small model that is built in
  sdbatch generate prompts.parquet out/ --sampler dpmpp_2m --steps 20 --guidance-scale 7 --seed 1
      a picture a row; columns of the table (seed, steps, …) go before these options
  sdbatch generate prompts.parquet out/ --column prompt=caption --images-per-prompt 4
      four pictures a row, of the texts in the column `caption`
  sdbatch generate 's3://bucket/prompts/*.parquet' s3://bucket/images --model ./stable-diffusion-v1-5
      from and to an object store, with Stable Diffusion
The same command again goes on where the last one stopped.

exit status:
  0  every row has its image           2  bad usage or bad input, told before any model is loaded
  1  the run ended, some rows failed   3  the run itself broke; running it again resumes
"""


def add(commands: Any, config: Mapping[str, Any]) -> None:
    parser = command(commands, "generate", _generate, "make the images of a prompt table", EXAMPLES, RUN_USAGE)
    add_run_options(parser, config)
    _add_watch_options(parser)
    words = parser.add_argument_group("words").add_mutually_exclusive_group()
    words.add_argument("--quiet", action="store_true", help="say nothing unless something is wrong")
    words.add_argument("--verbose", action="store_true", help="a line for each worker, too")
    words.add_argument("--log-format", default="text", choices=("text", "json"), help="default %(default)s")
    parser.set_defaults(**config)


def _add_watch_options(parser: argparse.ArgumentParser) -> None:
    defaults = RunSettings()
    watch = parser.add_argument_group("watching over it")
    for name, help in (
        ("--start-timeout", "seconds without a worker after which the run gives up; default %(default)s"),
        ("--stall-timeout", "seconds without progress after which a worker is restarted; default %(default)s"),
        ("--price-per-hour", "of one worker, for the report's cost"),
    ):
        default = getattr(defaults, name.removeprefix("--").replace("-", "_"))
        watch.add_argument(name, default=default, type=float, metavar="X", help=help)


def _generate(prompts: str, out: str, quiet: bool, verbose: bool, log_format: str, **options: Any) -> int:
    from sdbatch.pipeline import generate

    progress = _progress(quiet, verbose, log_format)
    try:
        report = generate(prompts, out, progress=progress, **options)
    except SdbatchError as error:
        progress.fail(error)
        return error.exit_status
    progress.end(report)
    return report.exit_status


def _progress(quiet: bool, verbose: bool, log_format: str) -> Any:
    from sdbatch.log_lines import LogLines
    from sdbatch.progress import ProgressLine

    if log_format == "json":
        return LogLines(sys.stderr)
    # What a notebook's `!sdbatch …` prints is kept: there, too, a line that is written over becomes hundreds.
    in_place = sys.stderr.isatty() and os.environ.get("TERM") != "dumb" and "JPY_PARENT_PID" not in os.environ
    return ProgressLine(sys.stderr, sys.stdout, in_place=in_place, quiet=quiet, verbose=verbose)
