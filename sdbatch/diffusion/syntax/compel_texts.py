"""Prompts in the syntax of compel (`word++`, `(two words)1.3`, `.blend()`, `.and()`), encoded by compel itself."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from types import SimpleNamespace
from typing import Any

import torch
from compel import Compel, SplitLongTextMode
from compel.prompt_parser import Blend, Conjunction, FlattenedPrompt

from sdbatch.diffusion.syntax.compel_refusals import SWAP, WITH_LORA
from sdbatch.errors import PromptError

__all__ = ["CompelTexts", "Layer"]

TEXTS_REMEMBERED = 1024


class Layer:
    """A text encoder for compel, whose last hidden states are those of a chosen layer.

    Args:
        encoder: a CLIP text encoder of transformers.
        states: selects the hidden states (B, tokens, dim) from its output with all layers.
    """

    def __init__(self, encoder: torch.nn.Module, states: Any):
        self._encoder, self._states = encoder, states
        self.device, self.dtype, self.config = encoder.device, encoder.dtype, encoder.config

    def __call__(self, ids: torch.Tensor, attention_mask: torch.Tensor | None = None, **_: object) -> Any:
        output = self._encoder(ids, attention_mask=attention_mask, output_hidden_states=True)
        return SimpleNamespace(last_hidden_state=self._states(output), text_embeds=getattr(output, "text_embeds", None))


class CompelTexts:
    """compel with the text encoders of a model. Each text is encoded alone, so no other one changes its bits.

    Args:
        tokenizers: the tokenizer of each encoder.
        layers: the encoders.
        context: tokens per chunk.
        truncate: whether a text is truncated to one chunk.
        pooled: whether the last encoder's pooled embedding is needed.
    """

    def __init__(self, tokenizers: Sequence[Any], layers: Sequence[Layer], context: int, truncate: bool, pooled: bool):
        self._context, self._pooled = context, pooled
        for tokenizer in tokenizers:  # compel splits long texts itself; transformers would warn about them
            tokenizer.deprecation_warnings["sequence-length-is-longer-than-the-specified-maximum"] = True
        self._compels = [
            Compel(
                tokenizer,
                layer,
                truncate_long_prompts=truncate,
                split_long_text_mode=SplitLongTextMode.SENTENCES,
                model_max_length=context,
            )
            for tokenizer, layer in zip(tokenizers, layers, strict=True)
        ]

    def chunks(self, texts: Sequence[str]) -> int:
        """The number of chunks of the longest of a row's texts; there is one text for each encoder.

        Raises:
            PromptError: compel can't read a text, or the text uses something unsupported.
        """
        return max(self._chunks(compel, text) for compel, text in zip(self._compels, texts, strict=True))

    def count_tokens(self, text: str) -> int:
        """Tokens of all prompts in a text for the first encoder, with start and end. Raises `PromptError`."""
        provider = self._compels[0].conditioning_provider
        fragments = [fragment.text for prompts in _prompts(text) for prompt in prompts for fragment in prompt.children]
        return 2 + sum(map(len, provider.get_token_ids(fragments, False, truncation_override=False)))

    def encode(self, texts: Sequence[str], chunks: int) -> tuple[list[torch.Tensor], torch.Tensor | None]:
        """Hidden states (chunks, context, dim) of each encoder, padded with those of the empty text; pooled state."""
        states = []
        for compel, text in zip(self._compels, texts, strict=True):
            made, _ = compel.build_conditioning_tensor_for_conjunction(_read(text))
            missing = chunks - made.shape[1] // self._context
            padding = compel.conditioning_provider.empty_z.to(made.dtype)
            states.append(torch.cat([made, *[padding] * missing], dim=1)[0].unflatten(0, (chunks, self._context)))
        # As in compel, pooled from the text with its markup, truncated. `requires_pooled` fails for .and(2, 1).
        last = self._compels[-1].conditioning_provider
        return states, last.get_pooled_embeddings([texts[-1]])[0] if self._pooled else None

    def _chunks(self, compel: Compel, text: str) -> int:
        return sum(max(self._length(compel, prompt) for prompt in prompts) for prompts in _prompts(text))

    def _length(self, compel: Compel, prompt: FlattenedPrompt) -> int:
        provider = compel.conditioning_provider
        texts, weights = [part.text for part in prompt.children], [part.weight for part in prompt.children]
        ids = provider.get_token_ids_and_expand_weights(texts, weights, device="cpu")[0]
        try:
            # compel searches for each part's tokens in the whole text, and may not find them.
            places = provider._get_token_ranges_for_fragments(ids.tolist(), texts)
        except RuntimeError as error:
            raise PromptError(f"compel can't weight the prompt: {_first_line(error)}") from error
        if any(first is None and weight < 1 for (first, _), weight in zip(places, weights, strict=False)):
            raise PromptError("the prompt gives an empty text a weight below 1, which compel does not support")
        return len(ids) // self._context


@lru_cache(TEXTS_REMEMBERED)  # compel builds its grammar for every text
def _read(text: str) -> Conjunction:
    """Parse a text with compel. Raises `PromptError`."""
    try:
        read = Compel.parse_prompt_string(text)
    except Exception as error:  # pyparsing's errors and compel's own have no common base class
        raise PromptError(f"compel can't read the prompt: {_first_line(error)}") from error
    if read.lora_weights:
        raise PromptError(WITH_LORA)
    if not read.prompts or any(isinstance(prompt, Blend) and not prompt.prompts for prompt in read.prompts):
        raise PromptError("compel finds no text in the prompt")
    if any(prompt.wants_cross_attention_control for prompt in read.prompts):
        raise PromptError(SWAP)
    return read


def _prompts(text: str) -> list[list[FlattenedPrompt]]:
    """The prompts that a text joins with `.and()`, each as the list of prompts that it blends. Raises `PromptError`."""
    return [prompt.prompts if isinstance(prompt, Blend) else [prompt] for prompt in _read(text).prompts]


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
