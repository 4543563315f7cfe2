"""Writes folders in diffusers' format into the user's cache: first under another name, then renamed."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path

__all__ = ["emptied", "json_file", "write_files"]


def emptied(folder: Path) -> Path:
    """The folder, after what an interrupted process left of it is removed."""
    shutil.rmtree(folder, ignore_errors=True)
    return folder


def write_files(folder: Path, files: Mapping[str, bytes]) -> None:
    """Write files by their names within the folder, which is made if needed."""
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)


def json_file(config: Mapping[str, object]) -> bytes:
    """The content of a configuration's file."""
    return (json.dumps(config, indent=2) + "\n").encode()
