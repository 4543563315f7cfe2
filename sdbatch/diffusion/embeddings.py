"""Encodes texts in batches of one fixed shape, and caches the encodings."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterable, Mapping
from typing import NamedTuple

import torch

__all__ = ["Embeddings", "Text"]

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
        self._capacity = capacity
        self._bytes = 0
        self._kept: OrderedDict[Text, Encoded] = OrderedDict()

    def get(self, texts: list[Text], upcoming: Iterable[Text] = ()) -> list[Encoded]:
        """The encodings of texts; `upcoming` texts fill the rest of the batches."""
        missing = [text for text in dict.fromkeys(texts) if text not in self._kept]
        if missing:
            self._fill(missing, upcoming)
        for text in texts:
            self._kept.move_to_end(text)
        encoded = [self._kept[text] for text in texts]
        while self._bytes > self._capacity:
            _, dropped = self._kept.popitem(last=False)
            self._bytes -= _size(dropped)
        return encoded

    def clear(self) -> None:
        self._kept.clear()
        self._bytes = 0

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
                self._kept[text] = {name: tensor[i].clone() for name, tensor in encoded.items()}
                self._bytes += _size(self._kept[text])


def _size(encoded: Encoded) -> int:
    return sum(tensor.nbytes for tensor in encoded.values())
