"""Encodes texts in batches of one fixed shape, and caches the encodings."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Mapping
from contextlib import AbstractContextManager
from itertools import chain
from typing import NamedTuple

import torch

from sdbatch.diffusion.byte_cache import ByteCache
from sdbatch.diffusion.device.transfer import send

__all__ = ["Embeddings", "Encoded", "Text", "WindowedEmbeddings", "size_of"]

Encoded = Mapping[str, torch.Tensor]
# A few hundred texts of Stable Diffusion XL in half precision.
CAPACITY_BYTES = 128 << 20
# Of the host's memory: about 500 texts of FLUX.1, or 120 of FLUX.2.
WINDOW_BYTES = 2 << 30


class Text(NamedTuple):
    """The input of a text encoder.

    Attributes:
        role: the text's purpose; a family may encode the same words differently by role.
        content: the words.
        form: the family's own input in place of the words; None for plain words.
        adapters: the adapters that change the encoder for this text.
    """

    role: str
    content: str
    form: Hashable = None
    adapters: tuple[Hashable, ...] = ()


class Embeddings:
    """A bounded cache of encoded texts; the least recently used are dropped first.

    Args:
        encode: encodes `batch` texts to named tensors with a leading dimension of `batch`.
        batch: texts per call; short batches are padded, because another shape changes rounding.
        capacity: maximum of bytes; the encodings of one call are always kept.
    """

    def __init__(self, encode: Callable[[list[Text]], Encoded], batch: int = 8, capacity: int = CAPACITY_BYTES):
        self._encode = encode
        self._batch = batch
        self._kept: ByteCache[Text, Encoded] = ByteCache(capacity, size_of)

    def get(self, texts: list[Text], upcoming: Iterable[Text] = ()) -> list[Encoded]:
        """The encodings of texts; `upcoming` texts fill the rest of the batches."""
        missing = [text for text in dict.fromkeys(texts) if text not in self._kept]
        if missing:
            self._fill(missing, upcoming)
        encoded = [self._kept[text] for text in texts]
        self._kept.trim()
        return encoded

    def clear(self) -> None:
        self._kept.clear()

    def _fill(self, missing: list[Text], upcoming: Iterable[Text]) -> None:
        wanted = dict.fromkeys(missing)
        for text in upcoming:
            if len(wanted) % self._batch == 0:
                break
            if text not in self._kept:
                wanted[text] = None
        texts = list(wanted)
        for start in range(0, len(texts), self._batch):
            self._add(texts[start : start + self._batch])

    def _add(self, texts: list[Text]) -> int:
        """Encode at most a batch of texts and keep the encodings; returns the bytes of the largest."""
        encoded = self._encode(texts + [texts[0]._replace(content="")] * (self._batch - len(texts)))
        # Copies, because a view would keep the whole batch in memory.
        made = [self._of_one(encoded, i) for i in range(len(texts))]
        for text, one in zip(texts, made, strict=True):
            self._kept.add(text, one)
        return max(map(size_of, made))

    def _of_one(self, encoded: Encoded, i: int) -> Encoded:
        return {name: tensor[i].clone() for name, tensor in encoded.items()}


class WindowedEmbeddings(Embeddings):
    """`Embeddings` for text encoders that are not always on the device: encodes as many texts at a time as fit.

    They are kept in the host's memory.

    Args:
        encode, batch: as for `Embeddings`.
        device: where the encodings are used.
        visit: has the text encoders on the device.
        capacity: maximum of bytes; the encodings of one call are always kept.
    """

    def __init__(
        self,
        encode: Callable[[list[Text]], Encoded],
        batch: int,
        device: torch.device,
        visit: Callable[[], AbstractContextManager[None]],
        capacity: int = WINDOW_BYTES,
    ):
        super().__init__(encode, batch, capacity)
        self._device = device
        self._visit = visit
        self._capacity = capacity

    def get(self, texts: list[Text], upcoming: Iterable[Text] = ()) -> list[Encoded]:
        """The encodings of texts. If one is missing, those of as many `upcoming` texts as fit are made, too."""
        if any(text not in self._kept for text in texts):
            with self._visit():
                self._fill_window(texts, upcoming)
        return [{name: send(tensor, self._device) for name, tensor in self._kept[text].items()} for text in texts]

    def _fill_window(self, texts: list[Text], upcoming: Iterable[Text]) -> None:
        needed = dict.fromkeys(texts)
        window: dict[Text, None] = {}
        batch: list[Text] = []
        used = largest = 0
        for text in chain(needed, upcoming):
            if text in window:
                continue
            # What a batch takes is known after the first one.
            if text not in needed and used + (len(batch) + 1) * largest > self._capacity:
                break
            window[text] = None
            if text in self._kept:
                used += size_of(self._kept[text])
                continue
            batch.append(text)
            if len(batch) == self._batch:
                largest = max(largest, self._add(batch))
                used += sum(size_of(self._kept[made]) for made in batch)
                batch = []
        if batch:
            self._add(batch)
        for text in reversed(window):
            self._kept[text]  # used last, so that others are dropped first
        self._kept.trim(at_least=len(needed))

    def _of_one(self, encoded: Encoded, i: int) -> Encoded:
        return {name: tensor[i].to("cpu", copy=True) for name, tensor in encoded.items()}


def size_of(encoded: Encoded) -> int:
    """The bytes of named tensors."""
    return sum(tensor.nbytes for tensor in encoded.values())
