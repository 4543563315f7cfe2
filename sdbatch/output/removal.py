"""Starting an output folder anew."""

from __future__ import annotations

import re
from concurrent.futures import ThreadPoolExecutor

from sdbatch.output.keys import MARKER
from sdbatch.storage import Store

__all__ = ["remove_output"]

OURS = re.compile(r"\d{5,}(/|\.parquet|\.tar)|run\.json|gallery/")
REMOVERS = 16


def remove_output(out: Store) -> None:
    """Remove what runs have written to `out`, and nothing else that may lie there.

    Markers go first, so that an interruption leaves no shard that only looks finished.

    Raises:
        StorageError: something cannot be removed.
    """
    names = list(out.entries())
    with ThreadPoolExecutor(REMOVERS) as pool:
        list(pool.map(out.remove, [name for name in names if MARKER.fullmatch(name)]))
        ours = [name.rstrip("/") for name in names if OURS.fullmatch(name)]
        list(pool.map(lambda name: out.remove(name, recursive=True), ours))
