"""Where a row's seed comes from: its own cell, else the run's seed and the row's position; images count up from it."""

from __future__ import annotations

from hashlib import blake2b

from sdbatch.bounds import MAX_INT64
from sdbatch.prompts.cells import Bad

__all__ = ["derived_seed", "image_seeds"]

SEEDS = 2**64  # torch's generators accept 0 to 2**64 - 1


def derived_seed(run_seed: int, file_number: int, row: int) -> int:
    """The seed of a row without one: 32 bits, a function only of the run's seed and the row's position."""
    digest = blake2b(f"{run_seed}/{file_number}/{row}".encode(), digest_size=4).digest()
    return int.from_bytes(digest, "big")


def image_seeds(seed: int, count: int, *, wide: bool) -> list[int] | Bad:
    """The seeds of a row's images: image i has seed + i, modulo 2**64.

    Args:
        wide: whether seeds may be 2**63 or more; outputs of older versions store them as int64.
    """
    if not wide and seed + count - 1 > MAX_INT64:
        return Bad(f"seed is {seed}; must be less than 2**63, counting up over {count} images")
    return [(seed + i) % SEEDS for i in range(count)]
