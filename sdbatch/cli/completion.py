"""Completion of commands, options and values in the shell, by argcomplete."""

from __future__ import annotations

import argparse
from typing import Any

from sdbatch.cli.options import command

__all__ = ["add", "answer"]

SHELLS = ("bash", "zsh", "fish")
EXAMPLES = """\
examples:
  eval "$(sdbatch completion bash)"                                        in ~/.bashrc
  eval "$(sdbatch completion zsh)"                                         in ~/.zshrc, after compinit
  sdbatch completion fish > ~/.config/fish/completions/sdbatch.fish        once
"""


def add(commands: Any) -> None:
    parser = command(commands, "completion", _completion, "print a script for shell completion", EXAMPLES)
    parser.add_argument("shell", choices=SHELLS)


def answer(parser: argparse.ArgumentParser) -> None:
    """Print the completions of the shell's command line, and end the process."""
    import argcomplete

    argcomplete.autocomplete(parser)


def _completion(shell: str) -> int:
    import argcomplete

    print(argcomplete.shellcode(["sdbatch"], shell=shell))
    return 0
