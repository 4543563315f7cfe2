"""The engine half of PixArt-Σ."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from sdbatch.diffusion.embeddings import Text
from sdbatch.diffusion.families.family import Named
from sdbatch.diffusion.families.transformer import Transformer

__all__ = ["PixArtSigma"]


class PixArtSigma(Transformer):
    """Runs PixArtSigmaPipeline at the row's exact size and with its prompt unchanged.

    These are the pipeline's results with `use_resolution_binning` and `clean_caption` off.
    """

    def count_tokens(self, text: str) -> int:
        return super().count_tokens(text.lower().strip())

    def encode(self, texts: list[Text]) -> Named:
        contents = [text.content.lower().strip() for text in texts]
        ids, mask = self.tokenize("tokenizer", contents, self.info.max_tokens)
        hidden_states = self.parts["text_encoder"](ids, attention_mask=mask)[0]
        return {"encoder_hidden_states": hidden_states.to(self.dtype), "encoder_attention_mask": mask}

    def predict(
        self, run: Callable[..., Any], latents: torch.Tensor, timesteps: torch.Tensor, conditioning: Named
    ) -> torch.Tensor:
        predicted = run(
            latents,
            timestep=timesteps,
            added_cond_kwargs={"resolution": None, "aspect_ratio": None},
            return_dict=False,
            **conditioning,
        )[0]
        # The second half is a variance, which no sampler here uses.
        return predicted[:, : latents.shape[1]]
