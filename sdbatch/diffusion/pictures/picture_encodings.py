"""Encodes pictures in batches of one fixed shape, and caches the encodings by content.

Decoding and resizing takes tens of milliseconds a picture, so threads do it ahead for the rows that come next.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import torch

from sdbatch.diffusion.byte_cache import ByteCache
from sdbatch.diffusion.device.transfer import send
from sdbatch.diffusion.embeddings import Encoded, size_of
from sdbatch.diffusion.pictures.picture_encoders import PictureEncoder
from sdbatch.diffusion.tasks import Need
from sdbatch.errors import PictureError

__all__ = ["PictureEncodings"]

# The latents of a few hundred pictures at 1024x1024. Pixels are not kept.
CAPACITY_BYTES = 128 << 20
# Of pixels that are prepared for rows to come: 85 pictures at 512x512, 21 at 1024x1024.
PREPARED_BYTES = 256 << 20
PIXEL_BYTES = 12  # float32, three channels
THREADS = 4


class PictureEncodings:
    """A bounded cache of a family's encodings; the least recently used are dropped first.

    Args:
        encoders: the encoders by `Need.kind`.
        device: the device of the encodings.
        capacity: maximum of bytes; the encodings of one call are always kept.
    """

    def __init__(self, encoders: Mapping[str, PictureEncoder], device: torch.device, capacity: int = CAPACITY_BYTES):
        self._encoders = encoders
        self._device = device
        self._kept: ByteCache[Hashable, Encoded] = ByteCache(capacity, size_of)
        self._pool = ThreadPoolExecutor(THREADS, thread_name_prefix="pixels")
        self._prepared: dict[Hashable, Future[torch.Tensor]] = {}

    def get(self, needs: list[Need], upcoming: Iterable[Need] = ()) -> list[Any]:
        """The encodings for a row; `upcoming` needs fill the rest of the batches.

        Raises:
            PictureError: a picture can't be read or used.
        """
        encoded, following = [], None
        for need in needs:
            if need.key not in self._kept:
                following = [*needs, *upcoming] if following is None else following
                self._fill(need, following)
            encoded.append(self._kept[need.key])
        if following is not None:
            self._prepare(following)
        results = [self._encoders[need.kind].result(need, own) for need, own in zip(needs, encoded, strict=True)]
        self._kept.trim()
        return results

    def clear(self) -> None:
        self._kept.clear()
        self._drop(list(self._prepared))

    def _prepare(self, needs: Iterable[Need]) -> None:
        """Let threads decode the next pictures, and forget those of rows that no longer come."""
        wanted: dict[Hashable, Need] = {}
        room = PREPARED_BYTES
        for need in needs:
            try:
                key = need.key
            except PictureError:  # its own row fails later
                continue
            if key not in self._kept and key not in wanted and need.kind in self._encoders:
                height, width = need.size or need.picture.size
                room -= PIXEL_BYTES * height * width
                if room < 0:
                    break
                wanted[key] = need
        self._drop(self._prepared.keys() - wanted.keys())
        for key, need in wanted.items():
            if key not in self._prepared:
                self._prepared[key] = self._pool.submit(self._encoders[need.kind].pixels, need)

    def _drop(self, keys: Iterable[Hashable]) -> None:
        for key in keys:
            self._prepared.pop(key).cancel()

    def _pixels(self, need: Need) -> torch.Tensor:
        prepared = self._prepared.pop(need.key, None)
        return self._encoders[need.kind].pixels(need) if prepared is None else prepared.result()

    def _fill(self, need: Need, others: Iterable[Need]) -> None:
        encoder = self._encoders[need.kind]
        batch = {need.key: self._pixels(need)}
        shape = batch[need.key].shape
        for other in others:
            if len(batch) == encoder.batch:
                break
            if other.kind == need.kind and other.size == need.size:
                self._add(batch, other, shape)
        padding = [torch.zeros(shape)] * (encoder.batch - len(batch))
        encoded = encoder.encode(send(torch.stack([*batch.values(), *padding]), self._device))
        for i, key in enumerate(batch):
            # A copy, because a view would keep the whole batch in memory.
            self._kept.add(key, {name: tensor[i].clone() for name, tensor in encoded.items()})

    def _add(self, batch: dict[Hashable, torch.Tensor], need: Need, shape: torch.Size) -> None:
        """Add a picture to a batch, unless it is cached or can't be read; in that case its own row fails later."""
        try:
            if need.key not in batch and need.key not in self._kept:
                pixels = self._pixels(need)
                if pixels.shape == shape:
                    batch[need.key] = pixels
        except PictureError:
            return
