"""Local copies of a store's files, cached by name, size and stamp: a file that changes is downloaded again."""

from __future__ import annotations

import hashlib
import json
import shutil
import threading
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path

from sdbatch.errors import StorageError
from sdbatch.once_per_node import once_per_node
from sdbatch.storage.store import Store, StoredFile

__all__ = ["copied", "local_copy", "only_file", "sha256_of"]

BLOCK_BYTES = 32 << 20
MARKER = ".complete"
_HASHING = threading.Lock()


def only_file(store: Store) -> StoredFile:
    """The single file that a store's address names. Raises `StorageError` if it does not exist or is a folder."""
    found = store.listing()
    if len(found.files) != 1 or found.is_folder:
        raise StorageError(f"{store.url}: is {'a folder' if found.is_folder else 'missing'}; expected a file")
    return found.files[0]


def local_copy(store: Store, cache: Path) -> Path:
    """The local path of the file that a store's address names; it is downloaded if needed.

    Safe to call from several threads and processes at once: one downloads, the others wait for it.

    Args:
        cache: the folder of copies.

    Raises:
        StorageError: it is missing, cannot be read, or the copy cannot be written.
    """
    file = only_file(store)
    if store.is_local:
        return Path(file.path)
    target = cache / _key(f"{file.path}\n{file.size}\n{file.stamp}") / file.path.rpartition("/")[2]
    try:
        once_per_node(target.parent, target, lambda: download(store, "", target))
    except OSError as exc:
        raise StorageError(f"cannot keep {store.url} in {target.parent}: {exc.strerror or exc}") from exc
    return target


def copied(store: Store, files: Mapping[str, StoredFile], cache: Path) -> Path:
    """A local folder with a copy of a store's files; they are downloaded if needed, safely as by `local_copy`.

    Args:
        files: by their names relative to `store`.
        cache: the folder of copies.

    Raises:
        StorageError: a file cannot be read, or a copy cannot be written.
    """
    listing = sorted((name, file.size, file.stamp) for name, file in files.items())
    entry = cache / _key(json.dumps(listing))
    folder, marker = entry / store.url.rstrip("/").rpartition("/")[2], entry / MARKER

    def download_all() -> None:
        for name in files:
            download(store, name, folder / name)
        # Written last: if it exists, all other files are complete.
        marker.write_text(f"{store.url}\n")

    try:
        once_per_node(entry, marker, download_all)
    except OSError as exc:
        raise StorageError(f"cannot keep {store.url} in {entry}: {exc.strerror or exc}") from exc
    return folder


def sha256_of(path: Path) -> str:
    """The hash of a file; it is computed again only if the file's size or time changes."""
    try:
        status = path.stat()
        with _HASHING:
            return _sha256(path, status.st_size, status.st_mtime_ns)
    except OSError as exc:
        raise StorageError(f"{path}: cannot be read: {exc.strerror or exc}") from exc


@lru_cache(4096)
def _sha256(path: Path, size: int, modified: int) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def download(store: Store, name: str, target: Path) -> None:
    """Download one file completely or not at all, unless it exists.

    Raises:
        StorageError: it cannot be read.
        OSError: the copy cannot be written.
    """
    if target.exists():
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    part = target.with_name(f"{target.name}.part")
    with store.mapped("read", name), store.open(name, block_size=BLOCK_BYTES) as remote, part.open("wb") as local:
        shutil.copyfileobj(remote, local, BLOCK_BYTES)
    part.replace(target)


def _key(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]
