"""Encodes texts in batches of one fixed shape, and caches the encodings."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Mapping
from typing import NamedTuple

import torch

from sdbatch.diffusion.byte_cache import ByteCache

__all__ = ["Embeddings", "Encoded", "Text", "size_of"]

Encoded = Mapping[str, torch.Tensor]
# A few hundred texts of Stable Diffusion XL in half precision.
CAPACITY_BYTES = 128 << 20


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
            part = texts[start : start + self._batch]
            encoded = self._encode(part + [part[0]._replace(content="")] * (self._batch - len(part)))
            for i, text in enumerate(part):
                # A copy, because a view would keep the whole batch in memory.
                self._kept.add(text, {name: tensor[i].clone() for name, tensor in encoded.items()})


def size_of(encoded: Encoded) -> int:
    """The bytes of named tensors."""
    return sum(tensor.nbytes for tensor in encoded.values())
