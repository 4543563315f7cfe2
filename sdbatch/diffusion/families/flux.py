"""The engine half of FLUX.1."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from sdbatch.diffusion.device.transfer import send
from sdbatch.diffusion.embeddings import Text
from sdbatch.diffusion.families.family import Named
from sdbatch.diffusion.families.transformer import Transformer, pack, unpack
from sdbatch.diffusion.request import Request

__all__ = ["Flux"]


class Flux(Transformer):
    """Runs FluxPipeline.

    Attributes:
        inputs: the names of the lanes' tensors that the transformer takes, where they are given.
    """

    block_lists = ("transformer_blocks", "single_transformer_blocks")
    prompt_tokenizer = "tokenizer_2"
    inputs: tuple[str, ...] = ("pooled_projections", "guidance")

    def encode(self, texts: list[Text]) -> Named:
        contents = [text.content for text in texts]
        clip, t5 = self.parts["text_encoder"], self.parts["text_encoder_2"]
        length = min(self.parts["tokenizer"].model_max_length, clip.config.max_position_embeddings)
        pooled = clip(self.tokenize("tokenizer", contents, length)[0]).pooler_output
        # Without a mask, as in the pipeline: the transformer attends to padding, too.
        hidden_states = t5(self.tokenize("tokenizer_2", contents, self.info.max_tokens)[0])[0]
        return {"encoder_hidden_states": hidden_states.to(self.dtype), "pooled_projections": pooled.to(self.dtype)}

    def conditioning(
        self, request: Request, encoded: list[Named], shape: tuple[int, int, int]
    ) -> list[dict[str, torch.Tensor]]:
        lanes = super().conditioning(request, encoded, shape)
        if self.info.guidance_embedded:
            scale = send(torch.tensor(float(request.guidance_scale)), self.device)
            lanes = [named | {"guidance": scale} for named in lanes]
        return lanes

    def predict(
        self, run: Callable[..., Any], latents: torch.Tensor, timesteps: torch.Tensor, conditioning: Named
    ) -> torch.Tensor:
        hidden_states = conditioning["encoder_hidden_states"]
        velocity = run(
            hidden_states=pack(latents),
            # Cast to the transformer's dtype before the division, as in the pipeline.
            timestep=timesteps.to(self.dtype) / 1000,
            encoder_hidden_states=hidden_states,
            txt_ids=hidden_states.new_zeros(hidden_states.shape[1], 3),
            img_ids=self._places(latents),
            return_dict=False,
            **{name: conditioning[name] for name in self.inputs if name in conditioning},
        )[0]
        return unpack(velocity, latents.shape)

    def _places(self, latents: torch.Tensor) -> torch.Tensor:
        """(0, row, column) of each token, (tokens, 3)."""
        height, width = latents.shape[2] // 2, latents.shape[3] // 2
        places = latents.new_zeros(height, width, 3)
        places[..., 1] += torch.arange(height, device=latents.device)[:, None]
        places[..., 2] += torch.arange(width, device=latents.device)[None, :]
        return places.view(height * width, 3)
