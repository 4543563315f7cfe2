"""Finds how much memory networks that are not in use at the moment may keep."""

from __future__ import annotations

import re
from pathlib import Path

import torch

from sdbatch.diffusion.device.headroom import MEMORY_SHARE, available_bytes

__all__ = ["spare_bytes"]

MEMINFO = Path("/proc/meminfo")
# Limit and use of a container, in version 2 and version 1 of control groups.
GROUPS = (
    (Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory.current")),
    (Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"), Path("/sys/fs/cgroup/memory/memory.usage_in_bytes")),
)
HOST_SHARE = 0.5  # of what is free: other workers of the machine take theirs, too


def spare_bytes(device: torch.device) -> int:
    """Bytes on a device that passes do not need; 0 if that is unknown.

    On CUDA, what is free beside the largest amount that the process has taken so far; on a CPU, half of what is free.
    """
    if device.type == "cuda":
        needed = torch.cuda.max_memory_allocated(device) - torch.cuda.memory_allocated(device)
        return int(available_bytes(device) * MEMORY_SHARE) - needed
    return int(_free_on_host() * HOST_SHARE) if device.type == "cpu" else 0


def _free_on_host() -> int:
    found = re.search(r"^MemAvailable:\s*(\d+) kB$", _content(MEMINFO), re.MULTILINE)
    free = int(found[1]) << 10 if found else 0
    for limit, used in GROUPS:
        if (maximum := _content(limit)).isdigit() and (now := _content(used)).isdigit():
            free = min(free, int(maximum) - int(now))
    return max(0, free)


def _content(path: Path) -> str:
    try:
        return path.read_text(encoding="ascii").strip()
    except OSError:
        return ""
