"""The engine half of Qwen-Image."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from diffusers.models.autoencoders.autoencoder_kl_qwenimage import QwenImageResidualBlock

from sdbatch.diffusion.device.transfer import send
from sdbatch.diffusion.embeddings import Text
from sdbatch.diffusion.families.family import Checkpoint, Named
from sdbatch.diffusion.families.flow import bucket
from sdbatch.diffusion.families.transformer import Transformer, pack, unpack
from sdbatch.diffusion.pictures.picture_encoders import PictureEncoder, VaeImages
from sdbatch.diffusion.pictures.picture_pixels import Pixels
from sdbatch.diffusion.request import Request

__all__ = ["QwenImage"]

# The template that the pipeline puts around a prompt, and its number of tokens before the prompt.
TEMPLATE = (
    "<|im_start|>system\nDescribe the image by detailing the color, shape, size, texture, quantity, text, spatial "
    "relationships of the objects and background:<|im_end|>\n<|im_start|>user\n{}<|im_end|>\n<|im_start|>assistant\n"
)
BEFORE = 34


class _Frames(VaeImages):
    """Encodes pictures with a video VAE, to which each is a video of one frame."""

    def distribution(self, pixels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        found = self._vae.encode(pixels[:, :, None]).latent_dist
        return found.mean[:, :, 0], found.std[:, :, 0]


def _forward(
    transformer: Any,
    hidden_states: torch.Tensor,
    timestep: torch.Tensor,
    encoder_hidden_states: torch.Tensor,
    mask: torch.Tensor,
    shape: tuple[int, int, int],
) -> torch.Tensor:
    """The forward of QwenImageTransformer2DModel without the lengths of texts.

    diffusers computes these at each call, from a number on the host, and does not use them.

    Args:
        hidden_states: the pictures' tokens (L, tokens, channels).
        mask: bool (L, text tokens).
        shape: a picture's frames, and its rows and columns of tokens.
    """
    hidden_states = transformer.img_in(hidden_states)
    encoder_hidden_states = transformer.txt_in(transformer.txt_norm(encoder_hidden_states))
    temb = transformer.time_text_embed(timestep.to(hidden_states.dtype), hidden_states, None)
    length, device = encoder_hidden_states.shape[1], hidden_states.device
    places = transformer.pos_embed([[shape]] * len(hidden_states), max_txt_seq_len=length, device=device)
    for block in transformer.transformer_blocks:
        encoder_hidden_states, hidden_states = block(
            hidden_states=hidden_states,
            encoder_hidden_states=encoder_hidden_states,
            encoder_hidden_states_mask=mask,
            temb=temb,
            image_rotary_emb=places,
        )
    return transformer.proj_out(transformer.norm_out(hidden_states, temb))


class QwenImage(Transformer):
    """Runs QwenImagePipeline."""

    decoder_blocks = (QwenImageResidualBlock,)

    def __init__(self, checkpoint: Checkpoint):
        super().__init__(checkpoint)
        checkpoint.parts["tokenizer"].padding_side = "right"
        config = self.vae.config
        mean, std = (torch.tensor(numbers).view(1, -1, 1, 1) for numbers in (config.latents_mean, config.latents_std))
        self._mean, self._std = send(mean, self.device), send(std, self.device)
        # diffusers keeps copies on the device, but compiled code would copy in each pass, which no CUDA graph records.
        embedding = self.denoiser.pos_embed
        embedding.pos_freqs = send(embedding.pos_freqs, self.device)
        embedding.neg_freqs = send(embedding.neg_freqs, self.device)

    def network_of(self, transformer: torch.nn.Module) -> Callable[..., Any]:
        return partial(_forward, transformer)

    def picture_encoder(self) -> PictureEncoder:
        return _Frames(self.vae, Pixels(self.info.vae_scale))

    def latent_shape(self, height: int, width: int) -> tuple[int, int, int]:
        scale = 2 ** len(self.vae.config.temperal_downsample)
        return self.vae.config.z_dim, height // scale, width // scale

    def count_tokens(self, text: str) -> int:
        return super().count_tokens(TEMPLATE.format(text)) - BEFORE

    def text_length(self, request: Request) -> int:
        length = max(self.count_tokens(text.content) for text in self.texts(request))
        return bucket(length, self.info.max_tokens)

    def encode(self, texts: list[Text]) -> Named:
        prompts = [TEMPLATE.format(text.content) for text in texts]
        ids, mask = self.tokenize("tokenizer", prompts, self.info.max_tokens + BEFORE)
        # Without its head, which would compute logits for the whole vocabulary.
        states = self.parts["text_encoder"].model(input_ids=ids, attention_mask=mask, use_cache=False)
        hidden_states, mask = states.last_hidden_state[:, BEFORE:], mask[:, BEFORE:].bool()
        return {"encoder_hidden_states": hidden_states.where(mask[..., None], 0).to(self.dtype), "mask": mask}

    def conditioning(
        self, request: Request, encoded: list[Named], shape: tuple[int, int, int]
    ) -> list[dict[str, torch.Tensor]]:
        length = self.text_length(request)
        return [{name: tensor[:length] for name, tensor in named.items()} for named in encoded]

    def predict(
        self, run: Callable[..., Any], latents: torch.Tensor, timesteps: torch.Tensor, conditioning: Named
    ) -> torch.Tensor:
        _, _, height, width = latents.shape
        velocity = run(
            pack(latents),
            # Cast to the transformer's dtype before the division, as in the pipeline.
            timesteps.to(self.dtype) / 1000,
            conditioning["encoder_hidden_states"],
            conditioning["mask"],
            (1, height // 2, width // 2),
        )
        return unpack(velocity, latents.shape)

    def rescale(self, request: Request) -> float:
        return 1.0

    def renormalise(self, guided: torch.Tensor, conditional: torch.Tensor, factors: torch.Tensor) -> torch.Tensor:
        """Scale each token of the guided output to the norm of the conditional output's token."""
        guided_tokens, conditional_tokens = pack(guided), pack(conditional)
        lengths = conditional_tokens.norm(dim=-1, keepdim=True) / guided_tokens.norm(dim=-1, keepdim=True)
        return guided.where(factors == 0, unpack(guided_tokens * lengths, guided.shape))

    def decode(self, latents: torch.Tensor) -> torch.Tensor:
        return super().decode(latents)[:, :, 0]

    def unscale(self, latents: torch.Tensor) -> torch.Tensor:
        # To the VAE, a picture is a video of one frame.
        return (latents / (1.0 / self._std) + self._mean)[:, :, None]
