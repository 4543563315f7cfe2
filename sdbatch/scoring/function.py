"""A user's own function as a scorer."""

from __future__ import annotations

import os
import sys
import typing
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from importlib import import_module
from typing import Any

import numpy as np
from PIL import Image

from sdbatch.diffusion.request import Request
from sdbatch.errors import UsageError
from sdbatch.scoring.expressions import Kind
from sdbatch.scoring.scorer import Score, Scorer

__all__ = ["Function", "function_declaration", "imported_function"]

KINDS: Mapping[Any, Kind] = {float: "number", int: "number", bool: "flag", str: "text"}


class Function(Scorer):
    """Calls `function(picture, row)` for each picture: a PIL image and the row's settings by name.

    Args:
        function: returns the score, or a mapping with a score for each of its columns.
        columns: that it fills.
    """

    def __init__(self, function: Callable[[Image.Image, Mapping[str, Any]], Any], columns: Sequence[str]) -> None:
        self._function = function
        self._columns = tuple(columns)

    def score(self, pictures: Sequence[np.ndarray], requests: Sequence[Request]) -> list[Mapping[str, Score]]:
        return [self._one(*pair) for pair in zip(pictures, requests, strict=True)]

    def _one(self, picture: np.ndarray, request: Request) -> Mapping[str, Score]:
        found = self._function(Image.fromarray(picture), asdict(request))
        return found if isinstance(found, Mapping) else {self._columns[0]: found}

    def describe(self) -> Mapping[str, str]:
        return {"function": f"{self._function.__module__}:{self._function.__qualname__}"}


def function_declaration(
    path: str, function: Callable[..., Any] | None = None
) -> tuple[Mapping[str, Kind], Callable[[Any], Scorer]]:
    """The columns of the function `module:name`, and what makes a scorer of it.

    The module is looked for in the current folder, too. The function's attribute `columns` (name to "number", "flag" or
    "text") says what it fills; without one it fills a column of its own name, of the kind that its return annotation
    says, else a number.

    Args:
        function: the function itself, where it came with the run and need not be imported.

    Raises:
        UsageError: it can't be imported, or is no function.
    """
    function = function or imported_function(path)
    columns = getattr(function, "columns", None)
    if columns is None:
        columns = {path.rpartition(":")[2].rpartition(".")[2]: _kind(function)}
    if not isinstance(columns, Mapping) or not columns or not set(columns.values()) <= set(KINDS.values()):
        raise UsageError(f"--scorer {path}: its columns are {columns!r}; expected name to 'number', 'flag' or 'text'")
    return dict(columns), lambda models: Function(function, tuple(columns))


def _kind(function: Callable[..., Any]) -> Kind:
    try:
        returned = typing.get_type_hints(function).get("return")
    except Exception:  # annotations of others may name what is not there
        returned = None
    options = [kind for kind in typing.get_args(returned) or (returned,) if kind is not type(None)]
    return KINDS.get(options[0], "number") if len(options) == 1 else "number"


def imported_function(path: str) -> Callable[..., Any]:
    """The function `module:name`. Raises `UsageError` as `function_declaration` does."""
    module, _, name = path.partition(":")
    if (here := os.getcwd()) not in sys.path:
        sys.path.append(here)
    try:
        found: Any = import_module(module)
        for part in name.split("."):
            found = getattr(found, part)
    except Exception as exc:  # importing runs the code of others
        reason = str(exc).strip().partition("\n")[0]
        raise UsageError(f"--scorer {path}: can't be imported: {type(exc).__name__}: {reason}") from exc
    if not callable(found):
        raise UsageError(f"--scorer {path}: is no function")
    return found
