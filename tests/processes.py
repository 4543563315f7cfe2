"""The processes of a Ray, found by the titles that Ray gives them."""

from __future__ import annotations

import time
from collections.abc import Callable

import psutil

__all__ = ["coordinators", "wait_for", "workers"]


def wait_for(condition: Callable[[], bool], seconds: float = 180) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.05)


def workers(address: str) -> list[psutil.Process]:
    """The workers on the Ray at `address`."""
    return _titled("ray::MapWorker(MapBatches(ShardWorker))", address)


def coordinators(address: str) -> list[psutil.Process]:
    """The coordinators of the runs on the Ray at `address`."""
    return _titled("ray::Coordinator", address)


def _titled(title: str, address: str) -> list[psutil.Process]:
    running = psutil.process_iter(["cmdline"])
    return [process for process in running if _starts(process, title) and _is_of(process, address)]


def _starts(process: psutil.Process, title: str) -> bool:
    return " ".join(process.info["cmdline"] or []).startswith(title)


def _is_of(process: psutil.Process, address: str) -> bool:
    """Whether the raylet that started a process belongs to the Ray at `address`."""
    try:
        return any(part.endswith(f"={address}") for part in process.parent().cmdline())
    except (psutil.NoSuchProcess, AttributeError):  # it ended meanwhile
        return False
