"""Text encodings by text: made in batches of one fixed shape, kept while they are likely to be wanted."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping

import torch

__all__ = ["Embeddings"]

Encoded = Mapping[str, torch.Tensor]


class Embeddings:
    """A bounded cache over a text encoder; least recently used texts go first.

    Args:
        encode: named tensors with a leading dimension of `batch` for that many texts.
        batch: texts a call; short batches are padded, for at another shape the encoder would round otherwise.
        capacity: texts kept.
    """

    def __init__(self, encode: Callable[[list[str]], Encoded], batch: int = 8, capacity: int = 256):
        self._encode = encode
        self._batch = batch
        self._capacity = capacity
        self._kept: OrderedDict[str, Encoded] = OrderedDict()

    def get(self, texts: list[str], upcoming: Iterable[str] = ()) -> list[Encoded]:
        """Encodings of some texts; `upcoming` ones fill up the batches that this takes."""
        missing = [text for text in dict.fromkeys(texts) if text not in self._kept]
        if missing:
            self._fill(missing, upcoming)
        for text in texts:
            self._kept.move_to_end(text)
        encoded = [self._kept[text] for text in texts]
        while len(self._kept) > self._capacity:
            self._kept.popitem(last=False)
        return encoded

    def clear(self) -> None:
        self._kept.clear()

    def _fill(self, missing: list[str], upcoming: Iterable[str]) -> None:
        wanted = dict.fromkeys(missing)
        for text in upcoming:
            if len(wanted) % self._batch == 0:
                break
            if text not in self._kept:
                wanted[text] = None
        texts = list(wanted)
        for start in range(0, len(texts), self._batch):
            part = texts[start : start + self._batch]
            encoded = self._encode(part + [""] * (self._batch - len(part)))
            for i, text in enumerate(part):
                # A copy, since a view would keep the whole batch in memory for as long as one of its texts.
                self._kept[text] = {name: tensor[i].clone() for name, tensor in encoded.items()}
