"""Decodes latents to pixels, in micro-batches of one fixed shape, in parallel to sampling."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch

from sdbatch.diffusion.device.memory import forget, is_out_of_memory, release_cached
from sdbatch.diffusion.device.side_streams import side_stream
from sdbatch.diffusion.device.transfer import receive
from sdbatch.diffusion.families.family import Family
from sdbatch.diffusion.lanes import Row

__all__ = ["Decoded", "Decoder"]

# Passes of the UNet that a finished row waits for others before it is decoded in a short batch.
PATIENCE = 8


@dataclass(eq=False)
class Decoded:
    """A finished row: its latents, and its pixels, uint8 (H, W, 3).

    Without pixels, either `error` says why, or they were not finite.
    """

    row: Row
    latents: torch.Tensor
    pixels: np.ndarray | None = None
    error: str | None = None


class Decoder:
    """Collects finished rows by shape and decodes them.

    Args:
        batch: rows per call of the VAE; short batches are padded, because another shape changes rounding.
        make_room: called when not even one row can be decoded; returns whether it freed memory.

    Attributes:
        shortages: how often the batch was halved, in words. Pictures round otherwise from then on.
    """

    def __init__(self, family: Family, batch: int, make_room: Callable[[], bool] = lambda: False):
        self._family = family
        self._make_room = make_room
        self.batch = batch
        self.shortages: list[str] = []
        self._waiting: dict[tuple[int, ...], list[Decoded]] = {}
        self._waited: dict[tuple[int, ...], int] = {}
        self._running: deque[_Running] = deque()
        self._stream = side_stream(family.device, "decoding") if family.device.type == "cuda" else None

    @property
    def idle(self) -> bool:
        return not self._running and not any(self._waiting.values())

    def clear(self) -> None:
        """Forget all rows."""
        self._waiting.clear()
        self._waited.clear()
        self._running.clear()

    def add(self, row: Row, latents: torch.Tensor) -> None:
        """Take a finished row's float32 latents (C, h, w)."""
        self._waiting.setdefault(tuple(latents.shape), []).append(Decoded(row, latents))

    def poll(self, flush: bool) -> list[Decoded]:
        """Start full batches, or everything if `flush`, and return the finished rows, oldest first."""
        for shape in list(self._waiting):
            self._start(shape, flush)
        ready = []
        while self._running and (flush or self._running[0].is_ready()):
            ready += self._running.popleft().collect()
        return ready

    def _start(self, shape: tuple[int, ...], flush: bool) -> None:
        waiting = self._waiting[shape]
        while len(waiting) >= self.batch:
            self._decode(waiting)
        self._waited[shape] = self._waited.get(shape, 0) + 1 if waiting else 0
        if waiting and (flush or self._waited[shape] > PATIENCE):
            while waiting:
                self._decode(waiting)
        if not waiting:
            del self._waiting[shape], self._waited[shape]

    def _decode(self, waiting: list[Decoded]) -> None:
        """Start a micro-batch from the head of the queue; when memory runs out, make room for the next try."""
        batch = waiting[: self.batch]
        try:
            self._running.append(self._launch(batch))
        except Exception as error:
            if not is_out_of_memory(error):
                raise
            forget(error)
            release_cached(self._family.device)
            if self.batch > 1:
                self.shortages.append(f"decoding {self.batch} pictures at once halved to {self.batch // 2}")
                self.batch //= 2
                return
            if self._make_room():
                return
            batch[0].error = "out of memory when decoding this size"
            self._running.append(_Running(batch))
        del waiting[: len(batch)]

    def _launch(self, batch: list[Decoded]) -> _Running:
        latents = torch.stack([decoded.latents for decoded in batch])
        padding = latents.new_zeros(self.batch - len(batch), *latents.shape[1:])
        latents = torch.cat([latents, padding])
        if self._stream is None:
            return _Running(batch, *to_pixels(self._family.decode(latents)))
        self._stream.wait_stream(torch.cuda.current_stream(self._family.device))
        with torch.cuda.stream(self._stream):
            # The allocator must not give this memory away before the side stream has read it.
            latents.record_stream(self._stream)
            pixels, finite = to_pixels(self._family.decode(latents))
            pixels, finite = receive(pixels), receive(finite)
            event = torch.cuda.Event(blocking=True)
            event.record(self._stream)
        return _Running(batch, pixels, finite, event)


@dataclass
class _Running:
    """A micro-batch that the device is decoding; on a CPU it is done already."""

    batch: list[Decoded]
    pixels: torch.Tensor | None = None
    finite: torch.Tensor | None = None
    event: torch.cuda.Event | None = None

    def is_ready(self) -> bool:
        return self.event is None or self.event.query()

    def collect(self) -> list[Decoded]:
        if self.event is not None:
            self.event.synchronize()
        if self.pixels is None:
            return self.batch
        for decoded, pixels, finite in zip(self.batch, self.pixels, self.finite.tolist(), strict=False):
            # A copy, because a view would keep the whole micro-batch in memory.
            decoded.pixels = pixels.numpy().copy() if finite else None
        return self.batch


def to_pixels(images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Decoded images (B, 3, H, W) as diffusers' VaeImageProcessor rounds them.

    Returns:
        uint8 (B, H, W, 3), and bool (B,): whether all values of an image were finite.
    """
    images = images.float()
    finite = torch.isfinite(images).flatten(1).all(dim=1)
    images = (images * 0.5 + 0.5).clamp(0.0, 1.0).nan_to_num(0.0)
    return (images * 255.0).round().to(torch.uint8).permute(0, 2, 3, 1).contiguous(), finite
