"""Token ids in chunks as long as a text encoder's context. Imports no torch."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

__all__ = ["Chunk", "Vocabulary"]

# Tokens after a comma that move into the next chunk together: AUTOMATIC1111's comma_padding_backtrack.
BACKTRACK = 20


class Chunk(NamedTuple):
    """What a text encoder is given at once.

    Attributes:
        ids: as many tokens as its context has: the start, the text's, the end, and padding.
        weights: of each token; None where all are 1.
    """

    ids: tuple[int, ...]
    weights: tuple[float, ...] | None = None


@dataclass(frozen=True)
class Vocabulary:
    """Tokens of one encoder that have a meaning of their own.

    Attributes:
        start, end, pad: ids.
        comma: id of a comma at the end of a word; None if it has none.
        context: tokens of a chunk, with start and end.
    """

    start: int
    end: int
    pad: int
    comma: int | None
    context: int

    @classmethod
    def of(cls, tokenizer: Any, context: int) -> Vocabulary:
        """That of a CLIP tokenizer of transformers."""
        comma = tokenizer.get_vocab().get(",</w>")
        return cls(tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id, comma, context)

    def plain(self, ids: Sequence[int]) -> list[Chunk]:
        """A text's tokens in chunks, each as full as can be; one chunk for a text without tokens."""
        room = self.context - 2
        return [self._chunk(ids[i : i + room]) for i in range(0, max(len(ids), 1), room)]

    def weighted(self, pieces: Iterable[tuple[Sequence[int], float] | None]) -> list[Chunk]:
        """Tokens with weights in chunks; None ends a chunk. Where a chunk is full, what comes after a comma not far
        back moves on with the rest, as in AUTOMATIC1111.
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
