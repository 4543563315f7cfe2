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
    """What a text encoder is given.

    Attributes:
        role: a family may encode equal words otherwise where they mean another thing.
        content: the words.
        form: what is encoded in place of the words, as the family has it; None for the words as they stand.
        adapters: what changes the encoder for this text.
    """

    role: str
    content: str
    form: Hashable = None
    adapters: tuple[Hashable, ...] = ()


class Embeddings:
    """A bounded cache over a text encoder; least recently used texts go first.

    Args:
        encode: named tensors with a leading dimension of `batch` for that many texts.
        batch: texts a call; short batches are padded, for at another shape the encoder would round otherwise.
        capacity: bytes kept; what one call needs is always kept.
    """

    def __init__(self, encode: Callable[[list[Text]], Encoded], batch: int = 8, capacity: int = CAPACITY_BYTES):
        self._encode = encode
        self._batch = batch
        self._capacity = capacity
        self._bytes = 0
        self._kept: OrderedDict[Text, Encoded] = OrderedDict()

    def get(self, texts: list[Text], upcoming: Iterable[Text] = ()) -> list[Encoded]:
        """Encodings of some texts; `upcoming` ones fill up the batches that this takes."""
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
                # A copy, since a view would keep the whole batch in memory for as long as one of its texts.
                self._kept[text] = {name: tensor[i].clone() for name, tensor in encoded.items()}
                self._bytes += _size(self._kept[text])


def _size(encoded: Encoded) -> int:
    return sum(tensor.nbytes for tensor in encoded.values())
