"""A run in a file: the command line's options, by name, as YAML."""

from __future__ import annotations

from typing import Any

import yaml

from sdbatch.errors import UsageError
from sdbatch.storage import Store

__all__ = ["read_config"]


def read_config(path: str) -> dict[str, Any]:
    """The options in a YAML file, local or at a URL, with underscores in their names.

    Numbers come as text, so that the command line's own parser reads both alike.

    Raises:
        UsageError: the file does not hold a mapping.
        StorageError: it cannot be read.
    """
    try:
        content = yaml.safe_load(Store(path).read(""))
    except yaml.YAMLError as exc:
        raise UsageError(f"--config {path} is not YAML: {' '.join(str(exc).split())}") from exc
    if not isinstance(content, dict):
        raise UsageError(f"--config {path}: wanted a mapping of options, such as `steps: 30`")
    return {str(key).replace("-", "_"): _as_argument(value) for key, value in content.items()}


def _as_argument(value: Any) -> Any:
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return str(value) if is_number else value
