"""What networks of rows add within a pass of a UNet."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

__all__ = ["Residuals", "zeros_like_lanes"]


@dataclass(frozen=True)
class Residuals:
    """Tensors that are added in all lanes, each (L, C, h, w); empty if no network of their kind works in the pass.

    Attributes:
        skips: of ControlNets: one for each skip connection, and a last one for the middle block.
        intrablock: of T2I-Adapters: one for each of the first blocks, perhaps the middle one included.
    """

    skips: Sequence[torch.Tensor] = ()
    intrablock: Sequence[torch.Tensor] = ()


def zeros_like_lanes(lanes: int, like: torch.Tensor) -> torch.Tensor:
    """Zeros for all lanes, given what one of them adds (C, h, w)."""
    return like.new_zeros(lanes, *like.shape).to(memory_format=torch.channels_last)
