"""Identifies a model by the content of its files.

`model_hash` covers the weights, and is the hash in PNG files. `model_files` covers every file that can change a
picture: configurations, vocabularies, the scheduler's settings and the weights.
"""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from sdbatch.diffusion.checkpoints.configs import check_regular
from sdbatch.diffusion.checkpoints.hub import CONFIG_SUFFIXES
from sdbatch.diffusion.families import family_named
from sdbatch.diffusion.models.inspection import INDEX, ModelInfo, weight_files
from sdbatch.errors import ModelError

__all__ = ["content_hash", "different_files", "model_files", "model_hash", "model_identity"]

CACHE = Path("~/.cache/sdbatch/digests")
BLOCK_BYTES = 1 << 22
# Hashing a smaller file is faster than looking up its digest.
KEPT_BYTES = 8 << 20
# A file that changed this recently could change again without a change of its times.
SETTLED_NS = 2_000_000_000
SHOWN_FILES = 3
DIGEST_CHARACTERS = 16

_kept: dict[str, str] = {}


def model_hash(info: ModelInfo) -> str:
    """SHA-256, in hex, over the names and contents of all weight files that the engine loads, sorted."""
    return _hash_of([(path, path.relative_to(info.folder).as_posix()) for path in weight_files(info)])


def model_files(info: ModelInfo) -> dict[str, str]:
    """A digest (16 hex digits of a SHA-256) of every file that can change a picture, by its name in the folder.

    These are model_index.json, the weights that are loaded, and the configurations and vocabularies beside them, in the
    folders of the components. Any change of their bytes counts.

    Raises:
        ModelError: a file can't be read.
    """
    paths = [info.folder / INDEX, *weight_files(info)]
    for part in family_named(info.family).parts:
        names = os.listdir(info.folder / part.name)
        kept = [name for name in names if name.endswith(CONFIG_SUFFIXES) and not name.startswith(".")]
        paths += [info.folder / part.name / name for name in kept]
    return {
        path.relative_to(info.folder).as_posix(): _hash_of([(path, "")])[:DIGEST_CHARACTERS] for path in sorted(paths)
    }


def content_hash(files: Sequence[Path]) -> str:
    """SHA-256, in hex, over the names and contents of files, in the given order.

    Raises:
        ModelError: a file can't be read.
    """
    return _hash_of([(path, path.name) for path in files])


def model_identity(files: Mapping[str, str]) -> str:
    """SHA-256, in hex, over the result of `model_files`."""
    return hashlib.sha256(json.dumps(sorted(files.items())).encode()).hexdigest()


def different_files(before: Mapping[str, str], now: Mapping[str, str]) -> str:
    """The names of the files in which two models differ, for a message."""
    names = sorted(name for name in before.keys() | now.keys() if before.get(name) != now.get(name))
    more = f" and {len(names) - SHOWN_FILES} more" if len(names) > SHOWN_FILES else ""
    return ", ".join(names[:SHOWN_FILES]) + more


def _hash_of(files: Sequence[tuple[Path, str]]) -> str:
    """SHA-256 over files, each after its label. Large ones are read once per node: their digests are cached.

    Raises:
        ModelError: a file can't be read.
    """
    key = _key(files)
    if key in _kept:
        return _kept[key]
    statuses = [check_regular(path) for path, _ in files]
    is_large = sum(status.st_size for status in statuses) >= KEPT_BYTES
    kept = _recall(key) if is_large else None
    if kept is None:
        kept = _read_and_hash(files)
        settled = time.time_ns() - SETTLED_NS
        if _key(files) != key or any(max(s.st_mtime_ns, s.st_ctime_ns) > settled for s in statuses):
            return kept
        if is_large:
            _keep(key, kept)
    _kept[key] = kept
    return kept


def _key(files: Sequence[tuple[Path, str]]) -> str:
    traits = []
    for path, label in files:
        status = check_regular(path)
        times = status.st_mtime_ns, status.st_ctime_ns
        traits.append((str(path.resolve()), label, status.st_size, status.st_dev, status.st_ino, *times))
    return hashlib.sha256(json.dumps(traits).encode()).hexdigest()


def _read_and_hash(files: Sequence[tuple[Path, str]]) -> str:
    digest = hashlib.sha256()
    for path, label in files:
        digest.update(label.encode())
        try:
            with path.open("rb") as file:
                while block := file.read(BLOCK_BYTES):
                    digest.update(block)
        except OSError as error:
            raise ModelError(f"{path}: can't be read: {error.strerror or error}") from error
    return digest.hexdigest()


def _recall(key: str) -> str | None:
    try:
        content = (CACHE.expanduser() / key).read_text(encoding="ascii")
    except (OSError, ValueError):
        return None
    return content if len(content) == 64 else None


def _keep(key: str, digest: str) -> None:
    """Keep a digest for the other processes of this node; a cache that can't be written costs only time."""
    with suppress(OSError):
        folder = CACHE.expanduser()
        folder.mkdir(parents=True, exist_ok=True)
        part = folder / f"{key}.{os.getpid()}.part"
        part.write_text(digest, encoding="ascii")
        part.replace(folder / key)
