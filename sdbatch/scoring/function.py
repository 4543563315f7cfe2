"""User-defined functions as scorers."""

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
        columns: the columns that it fills.
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
    """The declaration of the scorer `module:name`.

    The module may be in the current folder. The function's attribute `columns` (name to "number", "flag" or "text")
    declares the columns that it fills; without it, the function fills one column of its own name, whose kind is that
    of the return annotation, by default a number.

    Args:
        function: the function itself, if it was sent with the run; otherwise it is imported.

    Raises:
        UsageError: it can't be imported, or is not a function.
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
    except Exception:  # annotations may use undefined names
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
    except Exception as exc:  # importing runs user code
        reason = str(exc).strip().partition("\n")[0]
        raise UsageError(f"--scorer {path}: can't be imported: {type(exc).__name__}: {reason}") from exc
    if not callable(found):
        raise UsageError(f"--scorer {path}: is not a function")
    return found
