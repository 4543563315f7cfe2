"""The texts of Stable Diffusion: from a row's prompts to the hidden states of CLIP's text encoders."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any, NamedTuple

import torch

from sdbatch.diffusion.device.transfer import send
from sdbatch.diffusion.embeddings import Text
from sdbatch.diffusion.families.text_fields import A1111, COMPEL, PLAIN, Wording
from sdbatch.diffusion.request import Request
from sdbatch.diffusion.syntax import emphasis
from sdbatch.diffusion.syntax.chunks import Chunk, Vocabulary

__all__ = ["WOVEN", "ClipTexts", "Prompts"]

WOVEN = "woven"  # the role of a text that compel encodes

# The texts of a row are looked up several times before it gets its lanes.
ROWS_REMEMBERED = 1024
# Encoded compel texts to keep: their chunks are requested one after the other.
TEXTS_KEPT = 16

Prompts = tuple[str, ...]
"""The input of each text encoder for one lane."""


class Chunked(NamedTuple):
    """The form of a text given as tokens: one chunk for each encoder."""

    chunks: tuple[Chunk, ...]
    clip_skip: int


class Woven(NamedTuple):
    """The form of a text that compel encodes as a whole: `number` is the chunk that this text stands for."""

    prompts: Prompts
    chunked: bool
    clip_skip: int
    number: int
    chunks: int


class ClipTexts:
    """Prompts in all syntaxes, for the one or two text encoders of a model.

    Args:
        context: tokens per chunk.
        penultimate: whether the model uses the states of the second-to-last layer, without the final norm, and
            the last encoder's pooled embedding, as SDXL does.
    """

    def __init__(
        self,
        tokenizers: Sequence[Any],
        encoders: Sequence[torch.nn.Module],
        context: int,
        device: torch.device,
        *,
        penultimate: bool = False,
    ):
        self._tokenizers, self._encoders = tokenizers, list(encoders)
        self._context, self._device, self._penultimate = context, device, penultimate
        self._vocabularies = [Vocabulary.of(tokenizer, context) for tokenizer in tokenizers]
        self._lanes = lru_cache(ROWS_REMEMBERED)(self._make_lanes)
        self._compel = lru_cache(None)(self._make_compel)
        self._woven = lru_cache(TEXTS_KEPT)(self._weave)

    @property
    def encoders(self) -> int:
        """The number of text encoders."""
        return len(self._encoders)

    def lanes(self, request: Request, prompts: tuple[Prompts, ...]) -> tuple[tuple[Text, ...], ...]:
        """The texts of each lane, one per chunk; all lanes have the same number of chunks.

        Args:
            prompts: those of the conditional lane, then those of the unconditional lane if there is one.

        Raises:
            PromptError: a prompt that compel can't read.
        """
        return self._lanes(Wording.of(request), prompts)

    def count_tokens(self, text: str) -> int:
        return max(len(tokenizer(text, verbose=False).input_ids) for tokenizer in self._tokenizers)

    def prompt_tokens(self, request: Request) -> tuple[int, bool]:
        """Tokens of the row's prompt, without markup, with start and end tokens; and whether it is truncated."""
        wording, prompt = Wording.of(request), request.prompt
        if wording.syntax == COMPEL:
            tokens = self._compel(wording.chunked, 0).count_tokens(prompt)
        elif wording.syntax == A1111:
            pieces = [piece.text for piece in emphasis.parse(prompt) if not piece.is_break]
            tokens = 2 + max(
                sum(map(len, tokenizer(pieces, add_special_tokens=False, verbose=False).input_ids))
                for tokenizer in self._tokenizers
            )
        else:
            tokens = self.count_tokens(prompt)
        is_cut = not wording.chunked and tokens > self._context
        if wording.syntax == A1111 and not wording.chunked:
            is_cut = any(len(chunks) > 1 for chunks in self._weighted_chunks((prompt,) * len(self._tokenizers)))
        return tokens, is_cut

    def encode(
        self, texts: Sequence[Text], encoders: Sequence[torch.nn.Module]
    ) -> tuple[list[torch.Tensor], torch.Tensor]:
        """Hidden states (B, context, dim) of each encoder; and the last encoder's first output, used for pooling.

        Args:
            encoders: the text encoders, or their replacements when LoRAs are applied.
        """
        forms = [text.form for text in texts]
        states, first = [], None
        for number, encoder in enumerate(encoders):
            ids, mask = self._tokens(number, texts)
            uses_mask = not self._penultimate and getattr(encoder.config, "use_attention_mask", False)
            deep = self._penultimate or any(isinstance(form, Chunked) and form.clip_skip for form in forms)
            output = encoder(ids, attention_mask=mask if uses_mask else None, output_hidden_states=deep)
            first = output[0]
            made = self._states(number, output, 0)
            if any(form is not None for form in forms):
                made = torch.stack([self._formed(number, form, output, made, i) for i, form in enumerate(forms)])
            states.append(made)
        woven = [self._woven(form._replace(number=0)) if isinstance(form, Woven) else None for form in forms]
        if any(made is not None and made[1] is not None for made in woven):
            first = torch.stack([own if made is None else made[1] for own, made in zip(first, woven, strict=True)])
        return states, first

    def _make_lanes(self, wording: Wording, prompts: tuple[Prompts, ...]) -> tuple[tuple[Text, ...], ...]:
        lanes = []
        for number, texts in enumerate(prompts):
            # For a negative prompt, diffusers' pipelines skip no layers; other tools do.
            own = wording._replace(clip_skip=0) if number and wording.syntax == PLAIN else wording
            lanes.append((self._lane(own, texts), own.clip_skip))
        length = max(len(lane) for lane, _ in lanes)
        return tuple((*lane, *[self._empty(skip)] * (length - len(lane))) for lane, skip in lanes)

    def _lane(self, wording: Wording, prompts: Prompts) -> list[Text]:
        if wording.syntax == COMPEL:
            chunks = self._compel(wording.chunked, wording.clip_skip).chunks(prompts)
            form = Woven(prompts, wording.chunked, wording.clip_skip, 0, chunks)
            return [Text(WOVEN, "", form._replace(number=number)) for number in range(chunks)]
        if wording.syntax == A1111:
            return self._chunked(self._weighted_chunks(prompts), wording)
        fits = not wording.chunked or self.count_tokens(prompts[0]) <= self._context
        if fits and not wording.clip_skip and len(set(prompts)) == 1:
            return [Text("prompt", prompts[0])]
        ids = (
            tokenizer(text, add_special_tokens=False, verbose=False).input_ids
            for tokenizer, text in zip(self._tokenizers, prompts, strict=True)
        )
        return self._chunked([words.plain(own) for words, own in zip(self._vocabularies, ids, strict=True)], wording)

    def _weighted_chunks(self, prompts: Prompts) -> list[list[Chunk]]:
        made = []
        for tokenizer, vocabulary, prompt in zip(self._tokenizers, self._vocabularies, prompts, strict=True):
            pieces = emphasis.parse(prompt)
            ids = tokenizer([piece.text for piece in pieces], add_special_tokens=False, verbose=False).input_ids
            made.append(
                vocabulary.weighted(
                    None if piece.is_break else (own, piece.weight) for piece, own in zip(pieces, ids, strict=True)
                )
            )
        return made

    def _chunked(self, chunks: Sequence[Sequence[Chunk]], wording: Wording) -> list[Text]:
        """The chunks of all encoders side by side; encoders with fewer chunks get empty ones."""
        length = max(map(len, chunks)) if wording.chunked else 1
        empty = [vocabulary.plain(())[0] for vocabulary in self._vocabularies]
        padded = [[*own, *[none] * length][:length] for own, none in zip(chunks, empty, strict=True)]
        return [Text("chunk", "", Chunked(parts, wording.clip_skip)) for parts in zip(*padded, strict=True)]

    def _empty(self, clip_skip: int) -> Text:
        if not clip_skip:
            return Text("prompt", "")
        return Text("chunk", "", Chunked(tuple(words.plain(())[0] for words in self._vocabularies), clip_skip))

    def _tokens(self, number: int, texts: Sequence[Text]) -> tuple[torch.Tensor, torch.Tensor]:
        """Token ids and attention mask, both (B, context), for one encoder."""
        tokens = self._tokenizers[number](
            [text.content for text in texts],
            padding="max_length",
            max_length=self._context,
            truncation=True,
            return_tensors="pt",
        )
        ids, mask = tokens.input_ids, tokens.attention_mask
        for i, text in enumerate(texts):
            if isinstance(text.form, Chunked):
                own = text.form.chunks[number].ids
                ids[i] = torch.tensor(own)
                mask[i] = torch.arange(self._context) <= own.index(self._vocabularies[number].end)
        return send(ids, self._device), send(mask, self._device)

    def _formed(self, number: int, form: Any, output: Any, plain: torch.Tensor, i: int) -> torch.Tensor:
        """The states (context, dim) of text i of a batch, with its form applied."""
        if isinstance(form, Woven):
            return self._woven(form._replace(number=0))[0][number][form.number].to(plain.dtype)
        if not isinstance(form, Chunked):
            return plain[i]
        states = (self._states(number, output, form.clip_skip) if form.clip_skip else plain)[i]
        weights = form.chunks[number].weights
        return states if weights is None else weighted(states, weights)

    def _states(self, number: int, output: Any, clip_skip: int) -> torch.Tensor:
        """The encoder's hidden states that diffusers uses."""
        if self._penultimate:
            return output.hidden_states[-2 - clip_skip]
        if not clip_skip:
            return output.last_hidden_state if "last_hidden_state" in output else output[0]
        encoder = self._encoders[number]
        return getattr(encoder, "text_model", encoder).final_layer_norm(output.hidden_states[-1 - clip_skip])

    def _make_compel(self, chunked: bool, clip_skip: int) -> Any:
        # Imported here because compel is an optional dependency.
        from sdbatch.diffusion.syntax.compel_texts import CompelTexts, Layer

        layers = [
            Layer(encoder, self._layer_states(number, clip_skip)) for number, encoder in enumerate(self._encoders)
        ]
        return CompelTexts(self._tokenizers, layers, self._context, not chunked, self._penultimate)

    def _layer_states(self, number: int, clip_skip: int) -> Callable[[Any], torch.Tensor]:
        return lambda output: self._states(number, output, clip_skip)

    def _weave(self, form: Woven) -> tuple[list[torch.Tensor], torch.Tensor | None]:
        return self._compel(form.chunked, form.clip_skip).encode(form.prompts, form.chunks)


def weighted(states: torch.Tensor, weights: Sequence[float]) -> torch.Tensor:
    """A chunk's hidden states (tokens, dim) times the tokens' weights, rescaled so that their mean does not change.

    AUTOMATIC1111 calls this the "Original" emphasis. Computed in float32, whatever the encoder's dtype.
    """
    wide = states.float()
    scaled = wide * send(torch.tensor(weights), states.device)[:, None]
    return (scaled * (wide.mean() / scaled.mean())).to(states.dtype)
