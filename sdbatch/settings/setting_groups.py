"""Declares settings of a run, under the headings of `--help`."""

from __future__ import annotations

import difflib
from typing import Any

from sdbatch.fields import Field

__all__ = [
    "ADAPTERS",
    "APPROXIMATIONS",
    "MODEL",
    "MONITORING",
    "OUTPUT",
    "SCORES",
    "TABLE",
    "WORKERS",
    "did_you_mean",
    "of_the_run",
    "unimportant",
]

MODEL, APPROXIMATIONS, TABLE = "model", "approximations, for all rows", "table"
ADAPTERS = "adapters"
OUTPUT, SCORES, WORKERS, MONITORING = "output", "scores and retries", "workers", "monitoring"


def of_the_run(kind: Any, help: str, group: str, **rest: Any) -> Field:
    """A setting that is the same for all rows of a run."""
    return Field(kind=kind, help=help, group=group, per_row=False, **rest)


def unimportant(kind: Any, help: str, group: str, **rest: Any) -> Field:
    """A setting that cannot change a picture."""
    return of_the_run(kind, help, group, changes_picture=False, **rest)


def did_you_mean(name: str, known: list[str]) -> str:
    """The end of a message about an unknown name: the closest known name, or all of them."""
    close = difflib.get_close_matches(name, known, n=1)
    return f"; did you mean {close[0]!r}?" if close else f"; known names: {', '.join(known)}"
