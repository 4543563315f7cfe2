"""All commands together: parse, run one, and turn what it raises into words and an exit status."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from sdbatch import __version__
from sdbatch.cli import bench, completion, generate, output, plan
from sdbatch.cli.options import Parser, read_config
from sdbatch.errors import SdbatchError

__all__ = ["main"]

EXAMPLES = """\
to begin with:
  sdbatch generate "a red circle" out/           one picture, with the small model that is built in
  sdbatch plan prompts.parquet out/              what would be made of a table, and which rows can't be
  sdbatch generate prompts.parquet out/          make it; the same command again goes on where it stopped
  sdbatch gallery out/                           a page to look through what was made

Each command says more with --help. Exit status 0 is success, 1 a partial one, 2 wrong usage or input,
3 a run that broke and can be resumed.
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line `argv` (default: the process's own) and return its exit status."""
    if "_ARGCOMPLETE" in os.environ:  # the shell asks what may follow, and expects nothing to run
        completion.answer(_parser({}))
    try:
        arguments = vars(_parser(read_config(argv)).parse_args(argv))
        command = arguments.pop("command")
        return command(**arguments)
    except SdbatchError as error:
        print(f"sdbatch: error: {error}", file=sys.stderr)
        return error.exit_status
    except KeyboardInterrupt:
        print("\nsdbatch: interrupted; run the same command again to go on", file=sys.stderr)
        return 3


def _parser(config: Mapping[str, Any]) -> Parser:
    parser = Parser(
        prog="sdbatch",
        description="Turn a table of prompts into a dataset of images with Stable Diffusion, on Ray.",
        epilog=EXAMPLES,
    )
    parser.add_argument("--version", action="version", version=f"sdbatch {__version__}")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    for module in (generate, plan):
        module.add(commands, config)
    for module in (output, bench, completion):
        module.add(commands)
    return parser
