"""`sdbatch generate`."""

from __future__ import annotations

import argparse
import os
import sys
from typing import Any

from sdbatch.cli.options import RUN_USAGE, add_run_options, command
from sdbatch.errors import SdbatchError

__all__ = ["add"]

EXAMPLES = """\
examples:
  sdbatch generate "a red circle" out/
      one picture, out/00000/000000000.png, with the small built-in model
  sdbatch generate prompts.parquet out/ --sampler dpmpp_2m --steps 20 --guidance-scale 7 --seed 1
      one picture per row; columns of the table (seed, steps, …) override these options
  sdbatch generate prompts.parquet out/ --column prompt=caption --images-per-prompt 4
      four pictures per row, of the texts in the column `caption`
  sdbatch generate 's3://bucket/prompts/*.parquet' s3://bucket/images --model ./stable-diffusion-v1-5
      from and to an object store, with Stable Diffusion
Running the same command again resumes.

exit status:
  0  every row has its image           2  bad usage or bad input, reported before any model is loaded
  1  the run ended, some rows failed   3  the run itself broke; running it again resumes
"""


def add(commands: Any) -> argparse.ArgumentParser:
    parser = command(commands, "generate", _generate, "make the images of a prompt table", EXAMPLES, RUN_USAGE)
    add_run_options(parser)
    words = parser.add_argument_group("words").add_mutually_exclusive_group()
    words.add_argument("--quiet", action="store_true", help="print only warnings and errors")
    words.add_argument("--verbose", action="store_true", help="also print a line for each worker")
    words.add_argument("--log-format", default="text", choices=("text", "json"), help="default %(default)s")
    return parser


def _generate(prompts: str, out: str, quiet: bool, verbose: bool, log_format: str, **options: Any) -> int:
    from sdbatch.run.pipeline import generate

    progress = _progress(quiet, verbose, log_format)
    try:
        report = generate(prompts, out, progress=progress, **options)
    except SdbatchError as error:
        progress.fail(error)
        return error.exit_status
    progress.end(report)
    return report.exit_status


def _progress(quiet: bool, verbose: bool, log_format: str) -> Any:
    from sdbatch.cli.log_lines import LogLines
    from sdbatch.cli.progress import ProgressLine

    if log_format == "json":
        return LogLines(sys.stderr)
    # A notebook keeps everything that `!sdbatch …` prints: there, too, a line that is rewritten becomes hundreds.
    in_place = sys.stderr.isatty() and os.environ.get("TERM") != "dumb" and "JPY_PARENT_PID" not in os.environ
    return ProgressLine(sys.stderr, sys.stdout, in_place=in_place, quiet=quiet, verbose=verbose)
