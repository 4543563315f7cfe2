"""The engine half of Stable Diffusion 3 and 3.5."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from sdbatch.diffusion.embeddings import Text
from sdbatch.diffusion.families.family import Named
from sdbatch.diffusion.families.transformer import Transformer

__all__ = ["StableDiffusion3"]


class StableDiffusion3(Transformer):
    """Runs StableDiffusion3Pipeline."""

    prompt_tokenizer = "tokenizer_3"

    def encode(self, texts: list[Text]) -> Named:
        contents = [text.content for text in texts]
        first = self.parts["text_encoder"]
        length = min(self.parts["tokenizer"].model_max_length, first.config.max_position_embeddings)
        hidden_states, pooled = [], []
        for suffix in ("", "_2"):
            ids, _ = self.tokenize(f"tokenizer{suffix}", contents, length)
            output = self.parts[f"text_encoder{suffix}"](ids, output_hidden_states=True)
            hidden_states.append(output.hidden_states[-2])
            pooled.append(output[0])
        # Without a mask, as in the pipeline: the transformer attends to padding, too.
        t5 = self.parts["text_encoder_3"](self.tokenize("tokenizer_3", contents, self.info.max_tokens)[0])[0]
        clip = torch.cat(hidden_states, dim=-1)
        clip = torch.nn.functional.pad(clip, (0, t5.shape[-1] - clip.shape[-1]))
        return {
            "encoder_hidden_states": torch.cat([clip, t5], dim=-2).to(self.dtype),
            "pooled_projections": torch.cat(pooled, dim=-1).to(self.dtype),
        }

    def predict(
        self, run: Callable[..., Any], latents: torch.Tensor, timesteps: torch.Tensor, conditioning: Named
    ) -> torch.Tensor:
        # Timesteps in float32, unlike those of FLUX: the pipeline does not round them.
        return run(
            hidden_states=latents,
            timestep=timesteps,
            encoder_hidden_states=conditioning["encoder_hidden_states"],
            pooled_projections=conditioning["pooled_projections"],
            return_dict=False,
        )[0]
