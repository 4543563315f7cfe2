"""`python -m sdbatch` is the `sdbatch` command."""

from sdbatch.cli import console

console()
