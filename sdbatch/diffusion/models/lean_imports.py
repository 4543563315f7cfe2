"""Imports on demand what diffusers imports for all models and few of them use.

Of its package `transformers` a UNet needs one class, but the package imports a hundred, which takes a quarter of a
worker's start. Here the package's names are read from its `__init__.py`, and each class is imported at its first use.
Its schedulers import `scipy.stats` for one kind of sigmas; here it is executed at its first use.
"""

from __future__ import annotations

import ast
import importlib
import sys
import threading
from collections.abc import Mapping, Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from pathlib import Path
from types import ModuleType
from typing import Any

__all__ = ["import_on_demand"]

PACKAGE = "diffusers.models.transformers"
STATISTICS = "scipy.stats"


def import_on_demand() -> None:
    """From now on, import `scipy.stats` and the classes of `diffusers.models.transformers` when they are first used.

    What has been imported already stays as it is.
    """
    if not any(isinstance(finder, _Finder) for finder in sys.meta_path):
        sys.meta_path.insert(0, _Finder())


class _Finder(MetaPathFinder):
    def find_spec(self, name: str, path: Sequence[str] | None, target: ModuleType | None = None) -> ModuleSpec | None:
        if name not in (PACKAGE, STATISTICS):
            return None
        spec = PathFinder.find_spec(name, path)
        if name == STATISTICS:
            if spec is not None and spec.loader is not None:
                spec.loader = _AtFirstUse(spec.loader)
            return spec
        names = exported(Path(spec.origin).read_text(encoding="utf-8")) if spec and spec.origin else None
        if spec is None or names is None:
            return None
        spec.loader = _OnDemand(names)
        return spec


class _OnDemand(Loader):
    """A package whose classes, `names` by module, are imported at their first use."""

    def __init__(self, names: Mapping[str, str]):
        self._names = names

    def exec_module(self, module: ModuleType) -> None:
        def attribute(name: str) -> Any:
            if name not in self._names:
                raise AttributeError(f"module {PACKAGE!r} has no attribute {name!r}")
            value = getattr(importlib.import_module(f"{PACKAGE}.{self._names[name]}"), name)
            setattr(module, name, value)
            return value

        module.__dict__["__getattr__"] = attribute


class _AtFirstUse(Loader):
    """A module that is executed when one of its attributes is first read.

    The `LazyLoader` of importlib does so at any second import, which reads the module's `__spec__`.
    """

    def __init__(self, loader: Loader):
        self._loader = loader
        self._lock = threading.RLock()
        self._is_started = False

    def exec_module(self, module: ModuleType) -> None:
        def attribute(name: str) -> Any:
            with self._lock:  # other threads wait until the module is whole
                if not self._is_started:
                    self._is_started = True
                    try:
                        self._loader.exec_module(module)
                    except BaseException:
                        self._is_started = False
                        raise
            if name not in module.__dict__:
                raise AttributeError(f"module {module.__name__!r} has no attribute {name!r}")
            return module.__dict__[name]

        module.__dict__["__getattr__"] = attribute


def exported(source: str) -> dict[str, str] | None:
    """The names that a package's `__init__.py` imports from its own modules; None if it does anything else."""
    names: dict[str, str] = {}
    pending = list(ast.parse(source).body)
    while pending:
        node = pending.pop()
        if isinstance(node, ast.If):
            pending += [*node.body, *node.orelse]
        elif not isinstance(node, ast.ImportFrom) or node.module is None or any(alias.asname for alias in node.names):
            return None
        elif node.level == 1:
            names |= {alias.name: node.module for alias in node.names}
    return names
