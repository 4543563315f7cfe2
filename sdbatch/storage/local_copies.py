"""Files of a store as files on this machine, kept by what they are: one that changes there is fetched again."""

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
    """The one file that a store's address names. Raises `StorageError` if there is none, or it is a folder."""
    found = store.listing()
    if len(found.files) != 1 or found.is_folder:
        raise StorageError(f"{store.url}: is {'a folder' if found.is_folder else 'not there'}; expected a file")
    return found.files[0]


def local_copy(store: Store, cache: Path) -> Path:
    """Where the file that a store's address names lies on this machine, after it was fetched if need be.

    Any number of threads and processes may ask at once: one downloads, the others wait for it.

    Args:
        cache: the folder of copies.

    Raises:
        StorageError: it is not there, cannot be read, or cannot be kept.
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
    """The hash of a file, which is read once for as long as its size and its time stay."""
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
    """Download one file completely or not at all, if it is not there yet.

    Raises:
        StorageError: it cannot be read.
        OSError: it cannot be kept.
    """
    if target.exists():
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    part = target.with_name(f"{target.name}.part")
    with store.mapped("read", name), store.open(name, block_size=BLOCK_BYTES) as remote, part.open("wb") as local:
        shutil.copyfileobj(remote, local, BLOCK_BYTES)
    part.replace(target)
