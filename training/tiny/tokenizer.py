"""A CLIPTokenizer of our own: byte-level BPE, a token for each caption word, bytes for the rest."""

from __future__ import annotations

import itertools
from collections import Counter

from tokenizers.pre_tokenizers import ByteLevel
from transformers import CLIPTokenizer

from sdbatch.tiny.captions import WORDS

__all__ = ["CONTEXT", "new_tokenizer"]

CONTEXT = 32  # tokens; the longest caption needs 22


def new_tokenizer() -> CLIPTokenizer:
    """The tokenizer, the same every time; any Unicode text has tokens, since each byte is one."""
    merges = learn_merges(WORDS)
    alphabet = sorted(ByteLevel.alphabet())
    tokens = [*alphabet, *(f"{byte}</w>" for byte in alphabet), *("".join(pair) for pair in merges)]
    tokens += ["<|startoftext|>", "<|endoftext|>"]
    return CLIPTokenizer(
        vocab={token: index for index, token in enumerate(tokens)}, merges=merges, model_max_length=CONTEXT
    )


def learn_merges(words: list[str]) -> list[tuple[str, str]]:
    """Byte pair encoding (Sennrich et al. 2016) until each word is one token; ties go by the alphabet."""
    pieces = [[*word[:-1], f"{word[-1]}</w>"] for word in words]
    merges: list[tuple[str, str]] = []
    while counts := Counter(pair for word in pieces for pair in itertools.pairwise(word)):
        best = min(counts, key=lambda pair: (-counts[pair], pair))
        merges.append(best)
        pieces = [merge(word, best) for word in pieces]
    return merges


def merge(word: list[str], pair: tuple[str, str]) -> list[str]:
    merged: list[str] = []
    for piece in word:
        if merged and (merged[-1], piece) == pair:
            merged[-1] += piece
        else:
            merged.append(piece)
    return merged
