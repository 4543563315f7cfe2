"""Local copies of a store's files, cached by name, size and stamp: a file that changes is downloaded again."""

from __future__ import annotations

import hashlib
import shutil
import threading
from functools import lru_cache
from pathlib import Path

from filelock import FileLock

from sdbatch.errors import StorageError
from sdbatch.storage.store import Store, StoredFile

__all__ = ["download", "local_copy", "only_file", "sha256_of"]

BLOCK_BYTES = 32 << 20
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
    key = hashlib.sha256(f"{file.path}\n{file.size}\n{file.stamp}".encode()).hexdigest()[:16]
    target = cache / key / file.path.rpartition("/")[2]
    try:
        if not target.exists():
            target.parent.mkdir(parents=True, exist_ok=True)
            with FileLock(target.parent / ".lock"):
                download(store, "", target)
    except OSError as exc:
        raise StorageError(f"cannot keep {store.url} in {target.parent}: {exc.strerror or exc}") from exc
    return target


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
