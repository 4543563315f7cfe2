"""The engine half of FLUX.2 klein."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from sdbatch.diffusion.embeddings import Text
from sdbatch.diffusion.families.family import Named
from sdbatch.diffusion.families.flux_2_klein_family import LAYERS
from sdbatch.diffusion.families.transformer import Transformer
from sdbatch.diffusion.guidance import is_guided
from sdbatch.diffusion.request import Request

__all__ = ["Flux2Klein"]


class Flux2Klein(Transformer):
    """Runs Flux2KleinPipeline without input pictures."""

    block_lists = ("transformer_blocks", "single_transformer_blocks")

    def latent_shape(self, height: int, width: int) -> tuple[int, int, int]:
        """The shape of packed latents (2×2 latents each), in which the pipeline draws noise."""
        channels, rows, columns = super().latent_shape(height, width)
        return 4 * channels, rows // 2, columns // 2

    def count_tokens(self, text: str) -> int:
        return super().count_tokens(self.chat(text, enable_thinking=False))

    def texts(self, request: Request) -> list[Text]:
        prompt = Text("prompt", request.prompt)
        return [prompt, Text("prompt", "")] if is_guided(request, self.info) else [prompt]

    def encode(self, texts: list[Text]) -> Named:
        chats = [self.chat(text.content, enable_thinking=False) for text in texts]
        ids, mask = self.tokenize("tokenizer", chats, self.info.max_tokens)
        encoder = getattr(self.parts["text_encoder"], "model", self.parts["text_encoder"])
        states = encoder(input_ids=ids, attention_mask=mask, output_hidden_states=True, use_cache=False)
        taken = torch.cat([states.hidden_states[layer] for layer in LAYERS], dim=-1)
        return {"encoder_hidden_states": taken.to(self.dtype)}

    def predict(
        self, run: Callable[..., Any], latents: torch.Tensor, timesteps: torch.Tensor, conditioning: Named
    ) -> torch.Tensor:
        hidden_states = conditioning["encoder_hidden_states"]
        velocity = run(
            hidden_states=latents.flatten(2).transpose(1, 2),
            # Cast to the transformer's dtype before the division, as in the pipeline.
            timestep=timesteps.to(self.dtype) / 1000,
            guidance=None,
            encoder_hidden_states=hidden_states,
            txt_ids=_text_places(hidden_states),
            img_ids=_picture_places(latents),
            return_dict=False,
        )[0]
        return velocity.transpose(1, 2).reshape(latents.shape)

    def decode(self, latents: torch.Tensor) -> torch.Tensor:
        norm = self.vae.bn
        variance = norm.running_var.float().view(1, -1, 1, 1)
        std = torch.sqrt(variance + self.vae.config.batch_norm_eps)
        latents = latents * std + norm.running_mean.float().view(1, -1, 1, 1)
        batch, channels, height, width = latents.shape
        latents = latents.view(batch, channels // 4, 2, 2, height, width).permute(0, 1, 4, 2, 5, 3)
        latents = latents.reshape(batch, channels // 4, 2 * height, 2 * width)
        return self.vae.decode(latents.to(self.vae.dtype), return_dict=False)[0]


def _text_places(hidden_states: torch.Tensor) -> torch.Tensor:
    """(0, 0, 0, place) of each token, (tokens, 4)."""
    length, device = hidden_states.shape[1], hidden_states.device
    places = torch.zeros(length, 4, dtype=torch.int64, device=device)
    places[:, 3] = torch.arange(length, device=device)
    return places


def _picture_places(latents: torch.Tensor) -> torch.Tensor:
    """(0, row, column, 0) of each token, (tokens, 4)."""
    height, width = latents.shape[2:]
    places = torch.zeros(height, width, 4, dtype=torch.int64, device=latents.device)
    places[..., 1] = torch.arange(height, device=latents.device)[:, None]
    places[..., 2] = torch.arange(width, device=latents.device)[None, :]
    return places.view(height * width, 4)
