"""Estimates which GPUs can hold a model's weights."""

from __future__ import annotations

__all__ = ["room_on_gpus"]

# Memory of common GPUs; the share that must remain free beside the weights; and a size that fits all of them.
GPU_GIGABYTES = (24, 48, 80)
MIN_SHARE = 0.1
SMALL_BYTES = 8_000_000_000


def room_on_gpus(weights: int) -> str | None:
    """Say which GPUs are too small for weights of this size in bytes, and what the others leave; None if all fit."""
    if weights < SMALL_BYTES:
        return None
    left = {gigabytes: gigabytes - weights / 1e9 for gigabytes in GPU_GIGABYTES}
    too_small = [str(gigabytes) for gigabytes, free in left.items() if free < MIN_SHARE * gigabytes]
    rooms = [f"{free:.0f} of {gigabytes} GB" for gigabytes, free in left.items() if str(gigabytes) not in too_small]
    parts = [f"too much for a GPU of {' or '.join(too_small)} GB"] if too_small else []
    parts += [f"leaves {', '.join(rooms)} for sampling"] if rooms else []
    return "; ".join(parts)
