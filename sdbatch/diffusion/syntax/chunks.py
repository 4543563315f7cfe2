"""Splits token ids into chunks as long as a text encoder's context. Imports no torch."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

__all__ = ["Chunk", "Vocabulary"]

# Maximum of tokens after a comma that move into the next chunk: AUTOMATIC1111's comma_padding_backtrack.
BACKTRACK = 20


class Chunk(NamedTuple):
    """The input of one call of a text encoder.

    Attributes:
        ids: token ids, as many as its context: start, text, end and padding.
        weights: each token's weight; None if all are 1.
    """

    ids: tuple[int, ...]
    weights: tuple[float, ...] | None = None


@dataclass(frozen=True)
class Vocabulary:
    """The special tokens of one encoder.

    Attributes:
        start, end, pad: token ids.
        comma: the id of a comma at the end of a word; None if there is none.
        context: tokens per chunk, with start and end.
    """

    start: int
    end: int
    pad: int
    comma: int | None
    context: int

    @classmethod
    def of(cls, tokenizer: Any, context: int) -> Vocabulary:
        """The vocabulary of a CLIP tokenizer of transformers."""
        comma = tokenizer.get_vocab().get(",</w>")
        return cls(tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id, comma, context)

    def plain(self, ids: Sequence[int]) -> list[Chunk]:
        """Split a text's tokens into full chunks; a text without tokens gives one chunk."""
        room = self.context - 2
        return [self._chunk(ids[i : i + room]) for i in range(0, max(len(ids), 1), room)]

    def weighted(self, pieces: Iterable[tuple[Sequence[int], float] | None]) -> list[Chunk]:
        """Split tokens with weights into chunks; None ends a chunk. As in AUTOMATIC1111, if a chunk is full, the tokens
        after a recent comma move to the next one.
        """
        chunks: list[Chunk] = []
        tokens: list[tuple[int, float]] = []
        comma, room = -1, self.context - 2
        for piece in pieces:
            if piece is None:
                chunks.append(self._weighted(tokens))
                tokens, comma = [], -1
                continue
            for token in piece[0]:
                if token == self.comma:
                    comma = len(tokens)
                elif len(tokens) == room and comma != -1 and room - comma <= BACKTRACK:
                    chunks.append(self._weighted(tokens[: comma + 1]))
                    tokens, comma = tokens[comma + 1 :], -1
                if len(tokens) == room:
                    chunks.append(self._weighted(tokens))
                    tokens, comma = [], -1
                tokens.append((token, piece[1]))
        if tokens or not chunks:
            chunks.append(self._weighted(tokens))
        return chunks

    def _weighted(self, tokens: Sequence[tuple[int, float]]) -> Chunk:
        chunk = self._chunk([token for token, _ in tokens])
        weights = [1.0, *(weight for _, weight in tokens)]
        weights += [1.0] * (self.context - len(weights))
        return chunk if set(weights) == {1.0} else chunk._replace(weights=tuple(weights))

    def _chunk(self, ids: Sequence[int]) -> Chunk:
        ids = [self.start, *ids, self.end]
        return Chunk((*ids, *[self.pad] * (self.context - len(ids))))
