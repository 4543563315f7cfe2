"""The engine half of Lumina 2.

diffusers' own forward pads the texts of a batch to the longest, so that the bits of a row would depend on its
neighbours. Here texts are padded to a length that all rows of a lane set share, and a mask hides the padding.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch

from sdbatch.diffusion.device.transfer import send
from sdbatch.diffusion.embeddings import Text
from sdbatch.diffusion.families.family import Checkpoint, Named
from sdbatch.diffusion.families.flow import bucket
from sdbatch.diffusion.families.transformer import Transformer, pack, unpack
from sdbatch.diffusion.request import Request

__all__ = ["Lumina2"]

# Before each prompt, but before no negative prompt: `system_prompt` of the pipeline, and what it adds.
INSTRUCTION = (
    "You are an assistant designed to generate superior images with the superior degree of image-text alignment "
    "based on textual prompts or user prompts. <Prompt Start> "
)


class Lumina2(Transformer):
    """Runs Lumina2Pipeline."""

    block_lists = ("layers",)
    text_modules = ("time_caption_embed.caption_embedder.", "context_refiner.")

    def __init__(self, checkpoint: Checkpoint):
        super().__init__(checkpoint)
        checkpoint.parts["tokenizer"].padding_side = "right"
        # diffusers leaves them on the host, and would copy them for every text.
        embedder = self.denoiser.rope_embedder
        embedder.freqs_cis = [send(freqs, self.device) for freqs in embedder.freqs_cis]

    def count_tokens(self, text: str) -> int:
        return super().count_tokens(INSTRUCTION + text)

    def network_of(self, transformer: torch.nn.Module) -> Callable[..., Any]:
        return partial(self._forward, transformer)

    def text_length(self, request: Request) -> int:
        return bucket(max(self._length(text) for text in self.texts(request)), self.info.max_tokens)

    def encode(self, texts: list[Text]) -> Named:
        encoder, length = self.parts["text_encoder"], self.info.max_tokens
        ids, mask = self.tokenize("tokenizer", [_worded(text) for text in texts], length)
        encoder = getattr(encoder, "model", encoder)
        states = encoder(ids, attention_mask=mask, output_hidden_states=True, use_cache=False).hidden_states[-2]
        captions, valid = self.denoiser.time_caption_embed.caption_embedder(states.to(self.dtype)), mask.bool()
        # Independent of the timestep, so computed once per text and not at every step.
        freqs = self._freqs(_caption_places(length)).expand(len(texts), -1, -1)
        for layer in self.denoiser.context_refiner:
            captions = layer(captions, valid, freqs)
        return {"captions": captions, "valid": valid}

    def conditioning(
        self, request: Request, encoded: list[Named], shape: tuple[int, int, int]
    ) -> list[dict[str, torch.Tensor]]:
        length = self.text_length(request)
        lanes = []
        for text, named in zip(self.texts(request), encoded, strict=False):
            picture = _picture_places(self._length(text), shape[1] // 2, shape[2] // 2)
            lane = {name: tensor[:length] for name, tensor in named.items()}
            lanes.append(lane | {"freqs": self._freqs(torch.cat([picture, _caption_places(length)]))})
        return lanes

    def rescale(self, request: Request) -> float:
        return request.extra.get("cfg_normalization", 1.0)

    def renormalise(self, guided: torch.Tensor, conditional: torch.Tensor, factors: torch.Tensor) -> torch.Tensor:
        """Scale each line of a channel of the guided output to the norm of the conditional output's line."""
        lengths = conditional.norm(dim=-1, keepdim=True) / guided.norm(dim=-1, keepdim=True)
        return guided.where(factors == 0, guided * lengths)

    def predict(
        self, run: Callable[..., Any], latents: torch.Tensor, timesteps: torch.Tensor, conditioning: Named
    ) -> torch.Tensor:
        # The transformer's time runs from 0 to 1, and its velocity points towards the picture.
        captions, valid, freqs = (conditioning[name] for name in ("captions", "valid", "freqs"))
        return -run(latents, 1 - timesteps / self.info.num_train_timesteps, captions, valid, freqs)

    def _forward(
        self,
        transformer: Any,
        latents: torch.Tensor,
        times: torch.Tensor,
        captions: torch.Tensor,
        valid: torch.Tensor,
        freqs: torch.Tensor,
    ) -> torch.Tensor:
        """Lumina2Transformer2DModel.forward for lanes: picture tokens first, then text tokens."""
        embed = transformer.time_caption_embed
        embedded_time = embed.timestep_embedder(embed.time_proj(times).type_as(latents))
        hidden = transformer.x_embedder(pack(latents, channels_last=True))
        batch, count, _ = hidden.shape
        for layer in transformer.noise_refiner:
            hidden = layer(hidden, None, freqs[:, :count], embedded_time)
        mask = torch.cat([valid.new_ones(batch, count), valid], dim=1)
        hidden = torch.cat([hidden, captions], dim=1)
        for layer in transformer.layers:
            hidden = layer(hidden, mask, freqs, embedded_time)
        hidden = transformer.norm_out(hidden, embedded_time)[:, :count]
        return unpack(hidden, latents.shape, channels_last=True)

    def _length(self, text: Text) -> int:
        """Tokens of a text, truncated."""
        return min(super().count_tokens(_worded(text)), self.info.max_tokens)

    def _freqs(self, places: torch.Tensor) -> torch.Tensor:
        """Rotary embeddings of tokens at these places (tokens, 3), complex (tokens, dim)."""
        return self.denoiser.rope_embedder._get_freqs_cis(send(places, self.device)[None])[0]


def _worded(text: Text) -> str:
    return INSTRUCTION + text.content if text.role == "prompt" else text.content


def _caption_places(length: int) -> torch.Tensor:
    places = torch.zeros(length, 3, dtype=torch.int64)
    places[:, 0] = torch.arange(length)
    return places


def _picture_places(after: int, height: int, width: int) -> torch.Tensor:
    """Places of picture tokens, after a text of that length."""
    places = torch.full((height, width, 3), after, dtype=torch.int64)
    places[..., 1] = torch.arange(height)[:, None]
    places[..., 2] = torch.arange(width)[None, :]
    return places.view(height * width, 3)
