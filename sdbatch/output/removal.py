"""Removes files that an earlier run has written, and no others."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

from sdbatch.output.footprint import Footprint, is_marker_of
from sdbatch.output.keys import SCORES
from sdbatch.storage.store import Store

__all__ = ["remove_shards"]

REMOVERS = 16
REMOVED_AT_ONCE = 1000


def remove_shards(out: Store, footprint: Footprint, check: Callable[[], None]) -> None:
    """Remove the files and scores of a footprint's shards from `out`; unrelated files stay, also in their folders.

    Markers are removed first, so that no shard looks finished after an interruption. Can be repeated at any time.

    Args:
        check: called repeatedly; raises if the files must no longer be removed.

    Raises:
        StorageError: something cannot be removed.
    """
    entries = out.entries()
    _remove(out, [entry for entry in entries if is_marker_of(entry, footprint)], check)
    own = [entry for entry in entries if not entry.endswith("/") and footprint.shard_of(entry) is not None]
    _remove(out, [entry for entry in own if not is_marker_of(entry, footprint)], check)
    scores = [
        name for name in out.entries(SCORES) if name.endswith(".parquet") and footprint.shard_of(name) is not None
    ]
    _remove(out, [f"{SCORES}/{name}" for name in scores], check)
    out.remove_folder(SCORES)
    folders = [entry for entry in entries if footprint.is_folder(entry)]
    with ThreadPoolExecutor(REMOVERS) as pool:
        list(pool.map(lambda folder: _empty(out, folder.rstrip("/"), footprint, check), folders))


def _empty(out: Store, folder: str, footprint: Footprint, check: Callable[[], None]) -> None:
    files = [name for name in out.entries(folder) if not name.endswith("/")]
    _remove(out, [f"{folder}/{name}" for name in files if footprint.has_in_folder(int(folder), name)], check)
    out.remove_folder(folder)


def _remove(out: Store, names: list[str], check: Callable[[], None]) -> None:
    for start in range(0, len(names), REMOVED_AT_ONCE):
        check()
        out.remove_many(names[start : start + REMOVED_AT_ONCE])
