"""The engine half of Sana."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from typing import Any

import torch
from diffusers import DiffusionPipeline, SanaPipeline
from diffusers.models.autoencoders.autoencoder_dc import EfficientViTBlock, ResBlock

from sdbatch.diffusion.embeddings import Text
from sdbatch.diffusion.families.family import Checkpoint, Named
from sdbatch.diffusion.families.transformer import Transformer

__all__ = ["Sana"]


class Sana(Transformer):
    """Runs SanaPipeline at the row's exact size and with its prompt unchanged.

    These are the pipeline's results with `use_resolution_binning` and `clean_caption` off.

    Attributes:
        pipeline: the class that has the instructions before a prompt.
    """

    decoder_blocks = (ResBlock, EfficientViTBlock)
    pipeline: type[DiffusionPipeline] = SanaPipeline

    def __init__(self, checkpoint: Checkpoint):
        super().__init__(checkpoint)
        checkpoint.parts["tokenizer"].padding_side = "right"
        lines = inspect.signature(self.pipeline.__call__).parameters["complex_human_instruction"].default
        self._instructions = "\n".join(lines)

    def latent_shape(self, height: int, width: int) -> tuple[int, int, int]:
        scale = 2 ** (len(self.vae.config.encoder_block_out_channels) - 1)
        return self.vae.config.latent_channels, height // scale, width // scale

    def count_tokens(self, text: str) -> int:
        return super().count_tokens(text.lower().strip())

    def encode(self, texts: list[Text]) -> Named:
        """Encode the two roles separately, each at its own fixed shape: only prompts follow the instructions."""
        contents = [text.content.lower().strip() for text in texts]
        length = self.info.max_tokens
        encoded = self._encode(contents, length)
        if any(text.role == "prompt" for text in texts):
            before = len(self.parts["tokenizer"].encode(self._instructions))
            enhanced = self._encode([self._instructions + content for content in contents], before + length - 2)
            is_prompt = [text.role == "prompt" for text in texts]
            encoded = {
                name: torch.stack([(enhanced if chosen else encoded)[name][i] for i, chosen in enumerate(is_prompt)])
                for name in encoded
            }
        return encoded

    def predict(
        self, run: Callable[..., Any], latents: torch.Tensor, timesteps: torch.Tensor, conditioning: Named
    ) -> torch.Tensor:
        timesteps = timesteps * self.denoiser.config.timestep_scale
        predicted = run(latents, timestep=timesteps, return_dict=False, **conditioning)[0]
        return predicted[:, : latents.shape[1]]

    def unscale(self, latents: torch.Tensor) -> torch.Tensor:
        return latents.to(self.vae.dtype) / self.vae.config.scaling_factor

    def _encode(self, contents: Sequence[str], length: int) -> dict[str, torch.Tensor]:
        """Hidden states and mask of the first token and the last ones, `max_tokens` in all."""
        ids, mask = self.tokenize("tokenizer", contents, length)
        encoder = self.parts["text_encoder"]
        states = getattr(encoder, "model", encoder)(ids, attention_mask=mask, use_cache=False)[0].to(self.dtype)
        length = self.info.max_tokens
        kept = [torch.cat([tensor[:, :1], tensor[:, 1 - length :]], dim=1) for tensor in (states, mask)]
        return {"encoder_hidden_states": kept[0], "encoder_attention_mask": kept[1]}
