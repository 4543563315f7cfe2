"""Adds the tokens of textual inversion to tokenizers and text encoders, as diffusers' `load_textual_inversion` does."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from safetensors.torch import load_file

from sdbatch.diffusion.checkpoints.text_embeddings import TextEmbedding, token_names
from sdbatch.errors import AdapterError

__all__ = ["add_tokens"]


class ExpandingTokenizer:
    """A tokenizer that reads a token of several vectors as the names of all of them.

    Args:
        expansions: what is written for such a token.
    """

    def __init__(self, tokenizer: Any, expansions: Mapping[str, str]):
        self._tokenizer = tokenizer
        self._expansions = {token.lower(): expansion for token, expansion in expansions.items()}

    def __call__(self, text: str | Sequence[str], **options: Any) -> Any:
        texts = self._expanded(text) if isinstance(text, str) else [self._expanded(own) for own in text]
        return self._tokenizer(texts, **options)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._tokenizer, name)

    def _expanded(self, text: str) -> str:
        """As diffusers' `maybe_convert_prompt`, which finds tokens in the text's tokens, then replaces their text.

        CLIP's tokens have no case; diffusers finds only those that are written in lower case.
        """
        lower = text.lower()
        if not any(token in lower for token in self._expansions):
            return text
        found = self._expansions.keys() & {token.lower() for token in self._tokenizer.tokenize(text)}
        if not found:
            return text
        longest_first = "|".join(map(re.escape, sorted(found, key=len, reverse=True)))
        return re.sub(longest_first, lambda match: self._expansions[match[0].lower()], text, flags=re.IGNORECASE)


@torch.no_grad()
def add_tokens(parts: dict[str, Any], embeddings: Sequence[TextEmbedding]) -> None:
    """Append the vectors to the text encoders' tables, and their names to the tokenizers.

    Args:
        parts: components of a model by name; a tokenizer is replaced if a token has several vectors.

    Raises:
        AdapterError: a vector holds numbers that are not finite.
    """
    for encoder in sorted({encoder for embedding in embeddings for encoder in embedding.tensors}):
        own = [embedding for embedding in embeddings if encoder in embedding.tensors]
        tokenizer_name = encoder.replace("text_encoder", "tokenizer")
        tokenizer = parts[tokenizer_name]
        for embedding in own:
            _add(parts[encoder], tokenizer, embedding, *embedding.tensors[encoder])
        counts = {embedding.token: embedding.tensors[encoder][1] for embedding in own}
        expansions = {token: " ".join(token_names(token, count)) for token, count in counts.items() if count > 1}
        if expansions:
            parts[tokenizer_name] = ExpandingTokenizer(tokenizer, expansions)


def _add(encoder: torch.nn.Module, tokenizer: Any, embedding: TextEmbedding, tensor: str, count: int) -> None:
    vectors = load_file(embedding.path)[tensor].reshape(count, -1)
    if not vectors.isfinite().all():
        where = f"--embedding {embedding.token}={embedding.path}"
        raise AdapterError(f"{where}: {tensor} holds numbers that are not finite")
    names = token_names(embedding.token, count)
    taken = {name.lower() for name in tokenizer.get_vocab()}
    if known := [name for name in names if name.lower() in taken]:
        raise AdapterError(f"--embedding {embedding.token}: {known[0]} is the name of another token")
    for name in names:
        tokenizer.add_tokens(name)
    ids = tokenizer.convert_tokens_to_ids(names)
    table = encoder.get_input_embeddings()
    grown = torch.nn.Embedding(
        max(table.num_embeddings, max(ids) + 1),
        table.embedding_dim,
        device=table.weight.device,
        dtype=table.weight.dtype,
    )
    grown.weight[: table.num_embeddings] = table.weight
    grown.weight[ids] = vectors.to(grown.weight)
    encoder.set_input_embeddings(grown.eval().requires_grad_(False))
