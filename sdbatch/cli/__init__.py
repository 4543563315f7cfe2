"""The `sdbatch` command: options in, words and an exit status out. No logic of its own.

command.py   all commands together, errors to exit statuses
options.py   what several commands can be told
generate.py, plan.py, output.py (status, verify, gallery, sheet), bench.py, completion.py
"""

from sdbatch.cli.command import main

__all__ = ["main"]
