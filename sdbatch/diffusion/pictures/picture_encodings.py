"""Encodes pictures in batches of one fixed shape, and caches the encodings by content."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Mapping
from itertools import chain
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

    def get(self, needs: list[Need], upcoming: Iterable[Need] = ()) -> list[Any]:
        """The encodings for a row; `upcoming` needs fill the rest of the batches.

        Raises:
            PictureError: a picture can't be read or used.
        """
        encoded = []
        for need in needs:
            if need.key not in self._kept:
                self._fill(need, chain(needs, upcoming))
            encoded.append(self._kept[need.key])
        results = [self._encoders[need.kind].result(need, own) for need, own in zip(needs, encoded, strict=True)]
        self._kept.trim()
        return results

    def clear(self) -> None:
        self._kept.clear()

    def _fill(self, need: Need, others: Iterable[Need]) -> None:
        encoder = self._encoders[need.kind]
        batch = {need.key: encoder.pixels(need)}
        shape = batch[need.key].shape
        for other in others:
            if len(batch) == encoder.batch:
                break
            if other.kind == need.kind and other.size == need.size:
                self._add(batch, encoder, other, shape)
        padding = [torch.zeros(shape)] * (encoder.batch - len(batch))
        encoded = encoder.encode(send(torch.stack([*batch.values(), *padding]), self._device))
        for i, key in enumerate(batch):
            # A copy, because a view would keep the whole batch in memory.
            self._kept.add(key, {name: tensor[i].clone() for name, tensor in encoded.items()})

    def _add(self, batch: dict[Hashable, torch.Tensor], encoder: PictureEncoder, need: Need, shape: torch.Size) -> None:
        """Add a picture to a batch, unless it is cached or can't be read; in that case its own row fails later."""
        try:
            if need.key not in batch and need.key not in self._kept:
                pixels = encoder.pixels(need)
                if pixels.shape == shape:
                    batch[need.key] = pixels
        except PictureError:
            return
