"""The engine half of FLUX.2 klein and FLUX.2 dev."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from typing import Any

import torch
from diffusers.pipelines.flux2.system_messages import SYSTEM_MESSAGE

from sdbatch.diffusion.device.transfer import send
from sdbatch.diffusion.embeddings import Text
from sdbatch.diffusion.families.family import Named
from sdbatch.diffusion.families.flux_2_family import DEV_LAYERS, KLEIN_LAYERS
from sdbatch.diffusion.families.transformer import Transformer
from sdbatch.diffusion.guidance import is_guided
from sdbatch.diffusion.request import Request

__all__ = ["Flux2Dev", "Flux2Klein"]


class Flux2(Transformer):
    """What FLUX.2 klein and dev have in common.

    Attributes:
        layers: the layers of the text encoder whose hidden states are used.
        adds_special_tokens: whether the tokenizer adds tokens to a text in the chat template.
    """

    block_lists = ("transformer_blocks", "single_transformer_blocks")
    layers: tuple[int, ...]
    adds_special_tokens = True

    @abstractmethod
    def prompt(self, text: str) -> str:
        """A text in the chat template of the text encoder."""

    def count_tokens(self, text: str) -> int:
        tokenizer = self.parts["tokenizer"]
        return len(tokenizer(self.prompt(text), add_special_tokens=self.adds_special_tokens, verbose=False).input_ids)

    def latent_shape(self, height: int, width: int) -> tuple[int, int, int]:
        """The shape of packed latents (2×2 latents each), in which the pipelines draw noise."""
        channels, rows, columns = super().latent_shape(height, width)
        return 4 * channels, rows // 2, columns // 2

    def encode(self, texts: list[Text]) -> Named:
        chats = [self.prompt(text.content) for text in texts]
        ids, mask = self.tokenize("tokenizer", chats, self.info.max_tokens, add_special_tokens=self.adds_special_tokens)
        # Without its head, which would compute logits for the whole vocabulary.
        encoder = getattr(self.parts["text_encoder"], "model", self.parts["text_encoder"])
        states = encoder(input_ids=ids, attention_mask=mask, output_hidden_states=True, use_cache=False)
        taken = torch.cat([states.hidden_states[layer] for layer in self.layers], dim=-1)
        return {"encoder_hidden_states": taken.to(self.dtype)}

    def predict(
        self, run: Callable[..., Any], latents: torch.Tensor, timesteps: torch.Tensor, conditioning: Named
    ) -> torch.Tensor:
        hidden_states = conditioning["encoder_hidden_states"]
        velocity = run(
            hidden_states=latents.flatten(2).transpose(1, 2),
            # Cast to the transformer's dtype before the division, as in the pipeline.
            timestep=timesteps.to(self.dtype) / 1000,
            guidance=conditioning.get("guidance"),
            encoder_hidden_states=hidden_states,
            txt_ids=_text_places(hidden_states),
            img_ids=_picture_places(latents),
            return_dict=False,
        )[0]
        return velocity.transpose(1, 2).reshape(latents.shape)

    def unscale(self, latents: torch.Tensor) -> torch.Tensor:
        norm = self.vae.bn
        variance = norm.running_var.float().view(1, -1, 1, 1)
        std = torch.sqrt(variance + self.vae.config.batch_norm_eps)
        latents = latents * std + norm.running_mean.float().view(1, -1, 1, 1)
        batch, channels, height, width = latents.shape
        latents = latents.view(batch, channels // 4, 2, 2, height, width).permute(0, 1, 4, 2, 5, 3)
        return latents.reshape(batch, channels // 4, 2 * height, 2 * width)


class Flux2Klein(Flux2):
    """Runs Flux2KleinPipeline without input pictures."""

    layers = KLEIN_LAYERS

    def prompt(self, text: str) -> str:
        return self.chat(text, enable_thinking=False)

    def texts(self, request: Request) -> list[Text]:
        prompt = Text("prompt", request.prompt)
        return [prompt, Text("prompt", "")] if is_guided(request, self.info) else [prompt]


class Flux2Dev(Flux2):
    """Runs Flux2Pipeline without input pictures and without its rewriting of prompts."""

    layers = DEV_LAYERS
    adds_special_tokens = False

    def prompt(self, text: str) -> str:
        # The pipeline removes the token of a picture, too.
        contents = {"system": SYSTEM_MESSAGE, "user": text.replace("[IMG]", "")}
        messages = [{"role": role, "content": [{"type": "text", "text": text}]} for role, text in contents.items()]
        return self.parts["tokenizer"].apply_chat_template(messages, tokenize=False, add_generation_prompt=False)

    def conditioning(
        self, request: Request, encoded: list[Named], shape: tuple[int, int, int]
    ) -> list[dict[str, torch.Tensor]]:
        scale = send(torch.tensor(float(request.guidance_scale)), self.device)
        return [named | {"guidance": scale} for named in super().conditioning(request, encoded, shape)]


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
