"""The `sdbatch` command: parse, run one subcommand, and turn its errors into a message and an exit status."""

from __future__ import annotations

import atexit
import os
import signal
import sys
from collections.abc import Sequence
from contextlib import suppress
from typing import Any, NoReturn

from sdbatch import __version__
from sdbatch.cli import bench_command as bench
from sdbatch.cli import completion
from sdbatch.cli import export_command as export
from sdbatch.cli import generate_command as generate
from sdbatch.cli import output_commands as output
from sdbatch.cli import plan_command as plan
from sdbatch.cli import score_command as score
from sdbatch.cli.config_command import apply_config
from sdbatch.cli.options import Parser
from sdbatch.cli.streams import harmless_streams
from sdbatch.cli.unexpected import report_unexpected
from sdbatch.cli.words import printable
from sdbatch.errors import SdbatchError, UsageError

__all__ = ["console", "main"]

EXAMPLES = """\
first steps:
  sdbatch generate "a red circle" out/           one picture, with the small built-in model
  sdbatch plan prompts.parquet out/              show what a table would make, and which rows can't be made
  sdbatch generate prompts.parquet out/          make it; run the same command again to resume
  sdbatch gallery out/                           make a page to browse the result

See COMMAND --help for its options. Exit status: 0 success, 1 partial success, 2 bad usage or input,
3 the run broke and can be resumed.
"""


# The signals that ended the command. An exception cannot tell them apart: where Ray waits in C++, it drops what the
# handler of a signal raises, and raises a KeyboardInterrupt of its own.
_received: set[int] = set()


def console(argv: Sequence[str] | None = None) -> NoReturn:
    """Run the command line `argv` (default: the process's own), and end the process with its exit status.

    The interpreter is not finalized: threads of native libraries, such as Arrow's read-ahead, can outlive their work by
    a moment, and one that touches a Python object during finalization aborts the process.
    """
    signal.signal(signal.SIGTERM, _terminate)
    try:
        status = main(argv)
    except SystemExit as ended:  # argparse, after it has printed what is to say
        status = ended.code if isinstance(ended.code, int) else int(ended.code is not None)
    try:
        atexit._run_exitfuncs()
    finally:
        os._exit(status)


def _terminate(number: int, frame: Any) -> NoReturn:
    """SIGTERM, from `timeout`, `ray job stop` or Kubernetes: it ends a command as Ctrl-C does."""
    _received.add(number)
    raise KeyboardInterrupt


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line `argv` (default: the process's own) and return its exit status."""
    if "_ARGCOMPLETE" in os.environ:  # the shell requests completions, and expects nothing to run
        completion.answer(_parser()[0])
    with harmless_streams():
        try:
            return _run(sys.argv[1:] if argv is None else argv)
        except SdbatchError as error:
            print(f"sdbatch: error: {printable(str(error))}", file=sys.stderr)
            return error.exit_status
        except KeyboardInterrupt:
            what = "terminated" if signal.SIGTERM in _received else "interrupted"
            print(f"\nsdbatch: {what}; run the same command again to resume", file=sys.stderr)
            return 3
        except Exception as exc:  # the last resort of all commands: people get a line, and we a traceback
            print(f"sdbatch: error: {printable(report_unexpected(exc))}", file=sys.stderr)
            return 3


def _run(argv: Sequence[str]) -> int:
    for place, argument in enumerate(argv, 1):
        try:
            argument.encode()
        except UnicodeEncodeError as exc:
            raise UsageError(f"argument {place}, {_not_utf8(argument)}") from exc
    parser, configured = _parser()
    apply_config(argv, configured)
    arguments = vars(parser.parse_args(argv))
    command = arguments.pop("command")
    return command(**arguments)


def _not_utf8(argument: str) -> str:
    """What is wrong with an argument whose bytes Python could not decode."""
    encoding = sys.getfilesystemencoding()
    with suppress(UnicodeDecodeError):
        text = os.fsencode(argument).decode()
        return f"{text!r}, can't be used: Python's encoding is {encoding} here; set PYTHONUTF8=1"
    return f"{argument!r}, is not UTF-8"


def _parser() -> tuple[Parser, list[Parser]]:
    """The parser of all commands, and those of the commands that take a configuration file."""
    parser = Parser(
        prog="sdbatch",
        description="Turn a table of prompts into a dataset of images with Stable Diffusion, on Ray.",
        epilog=EXAMPLES,
    )
    parser.add_argument("--version", action="version", version=f"sdbatch {__version__}")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    configured = [module.add(commands) for module in (generate, plan)]
    for module in (output, score, export, bench, completion):
        module.add(commands)
    return parser, configured
