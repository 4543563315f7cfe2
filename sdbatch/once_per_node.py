"""What a machine needs once, whichever of its processes asks first."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from filelock import FileLock

__all__ = ["once_per_node"]


def once_per_node(folder: Path, done: Path, make: Callable[[], object]) -> None:
    """Call `make` unless `done` exists, which it must create last. Other threads and processes wait meanwhile.

    Args:
        folder: where the lock is; it is created if it does not exist.

    Raises:
        OSError: the folder can't be written; and what `make` raises.
    """
    if done.exists():
        return
    folder.mkdir(parents=True, exist_ok=True)
    with FileLock(folder / ".lock"):
        if not done.exists():
            make()
