"""Local copies of a store's files, cached by name, size and stamp: a file that changes is downloaded again."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Mapping
from pathlib import Path

from sdbatch.errors import StorageError
from sdbatch.once_per_node import once_per_node
from sdbatch.storage.store import Store, StoredFile

__all__ = ["ChangedFile", "content_stamp", "copied", "local_copy", "only_file"]

BLOCK_BYTES = 32 << 20
MARKER = ".complete"


class ChangedFile(Exception):
    """A file is not the one that was recorded."""


def only_file(store: Store) -> StoredFile:
    """The single file that a store's address names. Raises `StorageError` if it does not exist or is a folder."""
    found = store.listing()
    if len(found.files) != 1 or found.is_folder:
        raise StorageError(f"{store.url}: is {'a folder' if found.is_folder else 'missing'}; expected a file")
    return found.files[0]


def local_copy(store: Store, cache: Path, recorded: str | None = None) -> Path:
    """The local path of the file that a store's address names; it is downloaded if needed.

    Safe to call from several threads and processes at once: one downloads, the others wait for it.

    Args:
        cache: the folder of copies.
        recorded: what `content_stamp` was; None for any content.

    Raises:
        ChangedFile: the store's file is not the recorded one.
        StorageError: it is missing, cannot be read, or the copy cannot be written.
    """
    file = only_file(store)
    if store.is_local:
        return Path(file.path)
    if recorded not in (None, content_stamp(file)):
        raise ChangedFile(store.url)
    target = cache / _key(f"{file.path}\n{file.size}\n{file.stamp}") / file.path.rpartition("/")[2]
    try:
        once_per_node(target.parent, target, lambda: download(store, "", target))
    except OSError as exc:
        raise StorageError(f"cannot keep {store.url} in {target.parent}: {exc.strerror or exc}") from exc
    return target


def content_stamp(file: StoredFile) -> str:
    """The store's stamp of a file's content, without reading it."""
    return f"{file.size} {file.stamp}"


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
