"""The `sdbatch` command: options in, words and an exit status out. No logic of its own.

command.py  all commands together      options.py     what several of them can be told
generate.py, plan.py, output.py        completion.py  for the shell's Tab key
"""

from sdbatch.cli.command import main

__all__ = ["main"]
