"""The `sdbatch` command: turns options into calls, and results into text and an exit status.

command.py   all commands together; maps errors to exit statuses
options.py   options that several commands share
config_command.py, config_file.py   `--config`
*_command.py (output_commands.py has status, verify, gallery and sheet), completion.py   one command each
progress.py, log_lines.py, streams.py, words.py   what is printed
"""

from sdbatch.cli.command import console, main

__all__ = ["console", "main"]
