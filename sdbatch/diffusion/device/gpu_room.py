"""Estimates the memory that a model's weights take on a GPU. Imports no torch."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["WeightBytes", "must_take_turns", "room_on_gpus"]

# Memory of common GPUs; the share that must remain free beside the weights; and a size that fits all of them.
GPU_GIGABYTES = (24, 48, 80)
MIN_SHARE = 0.1
SMALL_BYTES = 8_000_000_000
# The share of a GPU's memory above which all weights together leave too little for lanes.
CROWDED_SHARE = 0.75


@dataclass(frozen=True)
class WeightBytes:
    """Bytes of a model's weights.

    Attributes:
        text_encoders: those that only encode texts.
        denoiser: those that only the denoiser's passes need.
        others: the autoencoder and everything else.
    """

    text_encoders: int
    denoiser: int
    others: int = 0

    @property
    def together(self) -> int:
        return self.text_encoders + self.denoiser + self.others

    @property
    def in_turns(self) -> int:
        """The bytes at the peak if text encoders and denoiser are never on the GPU at the same time."""
        return max(self.text_encoders, self.denoiser) + self.others


def must_take_turns(weights: WeightBytes, memory: int) -> bool:
    """Whether text encoders should leave a GPU of `memory` bytes while the denoiser runs."""
    return weights.text_encoders > 0 and weights.together > CROWDED_SHARE * memory


def room_on_gpus(weights: WeightBytes, release: str = "auto") -> str | None:
    """Say which GPUs are too small for a model's weights, and what the others leave; None if all fit.

    Args:
        release: whether the text encoders leave the GPU while the denoiser runs: "on", "off" or "auto".
    """
    if weights.together < SMALL_BYTES:
        return None
    left, in_turns, fitting = {}, [], []
    for gigabytes in GPU_GIGABYTES:
        turns = release == "on" or (release == "auto" and must_take_turns(weights, gigabytes * 10**9))
        left[gigabytes] = gigabytes - (weights.in_turns if turns else weights.together) / 1e9
        if turns:
            in_turns.append(gigabytes)
        if left[gigabytes] >= MIN_SHARE * gigabytes:
            fitting.append(gigabytes)
    too_small = [str(gigabytes) for gigabytes in GPU_GIGABYTES if gigabytes not in fitting]
    parts = [f"too much for a GPU of {' or '.join(too_small)} GB"] if too_small else []
    if fitting:
        rooms = ", ".join(f"{left[gigabytes]:.0f} of {gigabytes} GB" for gigabytes in fitting)
        parts.append(f"leaves {rooms} for sampling")
    if released := [str(gigabytes) for gigabytes in fitting if gigabytes in in_turns]:
        encoders = f"the text encoders' {weights.text_encoders / 1e9:.0f} GB leave the GPU meanwhile"
        parts[-1] += f" ({encoders} on {' and '.join(released)} GB)"
    return "; ".join(parts)
