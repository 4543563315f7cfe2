"""The version of sdbatch."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version

__all__ = ["__version__"]

try:
    __version__ = version("sdbatch")
except PackageNotFoundError:  # run from a source tree, as `ray job submit --working-dir .` does
    __version__ = "0.0.0+source"
