"""Hashes of files, each read once per node."""

from __future__ import annotations

import hashlib
import json
import os
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from sdbatch.diffusion.checkpoints.configs import check_regular
from sdbatch.errors import ModelError

__all__ = ["content_hash", "file_hash", "labelled_hash"]

CACHE = Path("~/.cache/sdbatch/digests")
BLOCK_BYTES = 1 << 22
# Hashing a smaller file is faster than looking up its digest.
KEPT_BYTES = 8 << 20
# A file that changed this recently could change again without a change of its times.
SETTLED_NS = 2_000_000_000

_kept: dict[str, str] = {}
_hashing = threading.Lock()


def content_hash(files: Sequence[Path]) -> str:
    """SHA-256, in hex, over the names and contents of files, in their order.

    Raises:
        ModelError: a file can't be read.
    """
    return labelled_hash([(path, path.name) for path in files])


def file_hash(path: Path) -> str:
    """SHA-256, in hex, of a file's content.

    Raises:
        ModelError: it can't be read.
    """
    return labelled_hash([(path, "")])


def labelled_hash(files: Sequence[tuple[Path, str]]) -> str:
    """SHA-256 over files, each after its label. Large ones are read once per node: their digests are cached.

    Raises:
        ModelError: a file can't be read.
    """
    key = _key(files)
    if key not in _kept:
        with _hashing:  # other threads may need the hash of the same file
            return _kept.get(key) or _hashed(files, key)
    return _kept[key]


def _hashed(files: Sequence[tuple[Path, str]], key: str) -> str:
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
