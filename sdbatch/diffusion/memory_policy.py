"""What an engine does when its device runs out of memory: continue with fewer lanes, and lose no row."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from sdbatch.diffusion.device.memory import release_cached
from sdbatch.diffusion.device.residency import Residency
from sdbatch.diffusion.lanes import Lanes, LaneSet, halved
from sdbatch.diffusion.sampling import Sampling
from sdbatch.diffusion.sampling_row import SamplingRow

__all__ = ["MemoryPolicy"]


class MemoryPolicy:
    """Releases the memory of sampling, whose rows start again in their old order.

    Args:
        halvings: what calibration has found already, in words.

    Attributes:
        halvings: every halving of the lanes so far, in words.
    """

    def __init__(
        self,
        lanes: Lanes,
        sampling: Sampling,
        device: torch.device,
        residency: Residency | None,
        halvings: Sequence[str] = (),
    ):
        self.halvings = list(halvings)
        self._lanes = lanes
        self._sampling = sampling
        self._device = device
        self._residency = residency

    def recover(self, lane_set: LaneSet, cause: SamplingRow | None, *, freed: bool) -> list[SamplingRow]:
        """Release memory after a pass ran out of it; returns the rows that don't fit even into two lanes.

        These have left their lanes.

        Args:
            cause: the row that needed the memory, if it was a single one, for a net of its own for instance.
            freed: whether the caller has released memory, so that as many lanes may fit now.
        """
        self._sampling.clear()
        failed: list[SamplingRow] = []
        if not freed and self._lanes.lanes > 2 and lane_set.size > 2:
            self._halve()
        else:
            if not freed:
                failed = list(lane_set.rows) if cause is None else [cause]
            for row in failed:
                self._lanes.retire(lane_set, row)
            self._lanes.rebuild(self._lanes.lanes)
        release_cached(self._device)
        if self._residency is not None:
            self._residency.settle()
        return failed

    def make_room(self) -> bool:
        """Release sampling's memory for others, and halve the lanes; False if there is none to release."""
        if not self._sampling.holds_memory:
            return False
        self._sampling.clear()
        self._halve()
        release_cached(self._device)
        return True

    def _halve(self) -> None:
        lanes = self._lanes.lanes
        self._lanes.rebuild(halved(lanes))
        if self._lanes.lanes < lanes:
            self.halvings.append(f"{lanes} lanes halved to {self._lanes.lanes} after {self._lanes.submitted} rows")
