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
from sdbatch.errors import UsageError, in_one_line
from sdbatch.scoring.expressions import Kind
from sdbatch.scoring.scorer import Score, Scorer

__all__ = ["Function", "function_declaration", "imported_function"]

KINDS: Mapping[Any, Kind] = {float: "number", int: "number", bool: "flag", str: "text"}


class Function(Scorer):
    """Calls `function(picture, row)` for each picture: a PIL image and the row's settings by name.

    Args:
        function: returns the score, or a mapping with a score for each of its columns.
        columns: the columns that it fills.
        path: `module:name`.
    """

    def __init__(
        self, function: Callable[[Image.Image, Mapping[str, Any]], Any], columns: Sequence[str], path: str
    ) -> None:
        self._function = function
        self._columns = tuple(columns)
        self._path = path

    def score(self, pictures: Sequence[np.ndarray], requests: Sequence[Request]) -> list[Mapping[str, Score]]:
        return [self._one(*pair) for pair in zip(pictures, requests, strict=True)]

    def _one(self, picture: np.ndarray, request: Request) -> Mapping[str, Score]:
        found = self._function(Image.fromarray(picture), asdict(request))
        return found if isinstance(found, Mapping) else {self._columns[0]: found}

    def describe(self) -> Mapping[str, str]:
        name = getattr(self._function, "__qualname__", None)  # which a partial function lacks
        return {"function": f"{self._function.__module__}:{name}" if name else self._path}


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
    return dict(columns), lambda models: Function(function, tuple(columns), path)


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
    except KeyboardInterrupt:
        raise
    except BaseException as exc:  # importing runs user code, which may even exit
        raise UsageError(f"--scorer {path}: can't be imported: {in_one_line(exc)}") from exc
    if not callable(found):
        raise UsageError(f"--scorer {path}: is not a function")
    return found
