"""Finds the weights of scorers, and identifies them by content."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Collection, Iterable, Iterator, Mapping
from pathlib import Path

from sdbatch.errors import UsageError

__all__ = ["refuse_unused", "weight_paths", "weights_hash"]

DOCUMENTATION = (".md",)
# These are models in transformers' format.
FOLDERS = ("clip", "nsfw")
MAX_FILES = 1_000
MAX_BYTES = 64 << 30
MAX_CONFIG_BYTES = 64 << 20


def refuse_unused(names: Iterable[str], scorers: Collection[str]) -> None:
    """Reject `--scorer-model` for a scorer that the run does not have. Raises `UsageError`."""
    for name in names:
        if name not in scorers and not (name == "clip" and "aesthetic" in scorers):
            raise UsageError(f"--scorer-model {name}=…: there is no --scorer {name}")


def weight_paths(given: Mapping[str, str]) -> dict[str, Path]:
    """The paths of `--scorer-model`.

    Raises:
        UsageError: one does not exist, is not what its scorer needs, or holds other than regular files, or too much.
    """
    paths = {name: Path(os.path.expanduser(path)) for name, path in given.items()}
    for name, path in paths.items():
        option = f"--scorer-model {name}={given[name]}"
        if not given[name] or (not os.path.isfile(path) and not os.path.isdir(path)):
            raise UsageError(f"{option}: there is no such file or folder")
        if name in FOLDERS and not path.is_dir():
            raise UsageError(f"{option}: is a file; expected the model's folder in transformers' format")
        _files(path)
        if name in FOLDERS and not os.path.isfile(path / "config.json"):
            raise UsageError(f"{option}: has no config.json; expected a model's folder in transformers' format")
    return paths


def weights_hash(*paths: Path) -> str:
    """SHA-256, in hex, over names and contents of a scorer's files, without documentation and hidden files.

    Raises:
        UsageError: as `weight_paths` does, or a file cannot be read.
    """
    digest = hashlib.sha256()
    for path in paths:
        for file in _files(path):
            name = str(file.relative_to(path)) if path.is_dir() else file.suffix
            try:
                content = _content_digest(file)
            except OSError as exc:
                raise UsageError(f"{file}: cannot be read: {exc.strerror or exc}") from exc
            digest.update(name.encode() + b"\0" + content)
    return digest.hexdigest()


def _content_digest(file: Path) -> bytes:
    if not file.stat().st_size:  # some files of /proc have no size, and block
        return hashlib.sha256().digest()
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").digest()


def _files(path: Path) -> list[Path]:
    """The files of a scorer's weights, without documentation and hidden ones. None of them can block or fill memory."""
    found, size = [], 0
    for file in _below(path) if path.is_dir() else [path]:
        if not os.path.isfile(file):
            raise UsageError(f"{file}: is not a regular file; remove it from the scorer's weights")
        size += (own := file.stat().st_size)
        if file.suffix == ".json" and own > MAX_CONFIG_BYTES:
            raise UsageError(f"{file}: has {own:,} bytes, more than the maximum of {MAX_CONFIG_BYTES:,}")
        found.append(file)
        if len(found) > MAX_FILES or size > MAX_BYTES:
            raise UsageError(
                f"{path}: holds more than {MAX_FILES:,} files or {MAX_BYTES >> 30} GB; name the scorer's weights alone"
            )
    return sorted(file for file in found if file.suffix not in DOCUMENTATION and not file.name.startswith("."))


def _below(folder: Path) -> Iterator[Path]:
    """Files at any depth; links to folders are not followed."""
    for place, _, names in os.walk(folder):
        yield from (Path(place, name) for name in names)
