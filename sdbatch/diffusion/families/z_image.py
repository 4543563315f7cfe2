"""The engine half of Z-Image.

diffusers' own forward takes a list of texts and pads them to the longest, so that the bits of a row would depend on
its neighbours. Here texts are padded to a length that all rows of a lane set share, and a mask hides the padding.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch

from sdbatch.diffusion.device.transfer import send
from sdbatch.diffusion.embeddings import Text
from sdbatch.diffusion.families.family import Checkpoint, Named
from sdbatch.diffusion.families.flow import bucket
from sdbatch.diffusion.families.transformer import Transformer, pack, unpack
from sdbatch.diffusion.request import Request

__all__ = ["ZImage"]

# Sequences are padded to multiples of this with tokens that are attended to, as in diffusers.
MULTIPLE = 32
PATCH = "2-1"


class ZImage(Transformer):
    """Runs ZImagePipeline."""

    block_lists = ("layers",)
    text_modules = ("cap_embedder.", "cap_pad_token", "context_refiner.")

    def __init__(self, checkpoint: Checkpoint):
        super().__init__(checkpoint)
        checkpoint.parts["tokenizer"].padding_side = "right"
        # Its first call makes a table on the host and copies it, which no row should wait for.
        self.denoiser.rope_embedder(send(torch.zeros(1, 3, dtype=torch.int64), self.device))

    def count_tokens(self, text: str) -> int:
        return super().count_tokens(self.chat(text, enable_thinking=True))

    def network_of(self, transformer: torch.nn.Module) -> Callable[..., Any]:
        return partial(self._forward, transformer)

    def once_per_text(self) -> set[str]:
        return {name for name, _ in self.denoiser.named_modules() if name.startswith(self.text_modules)}

    def texts(self, request: Request) -> list[Text]:
        texts = super().texts(request)
        if request.extra.get("lora") is None:
            return texts
        adapters = self.loras.text_key(request)
        return [text._replace(adapters=adapters) for text in texts]

    def text_length(self, request: Request) -> int:
        length = max(self._padded(text.content) for text in self.texts(request))
        return bucket(length, self.info.max_tokens)

    def encode(self, texts: list[Text]) -> Named:
        if any(text.adapters for text in texts):
            return self.loras.encode(texts, self._encode)
        return self._encode(texts, [self.denoiser])

    def _encode(self, texts: list[Text], networks: Sequence[Any]) -> Named:
        """Captions after the transformer's own text layers; `networks` has the transformer, perhaps with LoRAs."""
        encoder, (transformer,) = self.parts["text_encoder"], networks
        chats = [self.chat(text.content, enable_thinking=True) for text in texts]
        length = self.info.max_tokens
        ids, mask = self.tokenize("tokenizer", chats, length)
        encoder = getattr(encoder, "model", encoder)
        states = encoder(input_ids=ids, attention_mask=mask.bool(), output_hidden_states=True, use_cache=False)
        captions = transformer.cap_embedder(states.hidden_states[-2].to(self.dtype))
        place = torch.arange(length, device=self.device)
        count = mask.sum(dim=1, keepdim=True)
        captions = captions.where((place < count)[..., None], transformer.cap_pad_token)
        valid = place < (count + MULTIPLE - 1) // MULTIPLE * MULTIPLE
        captions = captions.where(valid[..., None], 0)
        # Independent of the timestep, so computed once per text and not at every step.
        freqs = self._caption_freqs(length).expand(len(texts), -1, -1)
        for layer in transformer.context_refiner:
            captions = layer(captions, valid, freqs)
        return {"captions": captions, "valid": valid}

    def scales(self, request: Request, calls: int) -> Sequence[float]:
        stop = request.extra.get("cfg_truncation", 1.0)
        removed = (1000 - self.coefficients(request).timesteps) / 1000
        return [
            scale if share <= stop else 1.0
            for scale, share in zip(super().scales(request, calls), removed, strict=True)
        ]

    def rescale(self, request: Request) -> float:
        return request.extra.get("cfg_normalization", 0.0)

    def renormalise(self, guided: torch.Tensor, conditional: torch.Tensor, factors: torch.Tensor) -> torch.Tensor:
        """Limit the norms of the guided outputs to `factors` times those of the conditional ones."""
        limit = factors * conditional.flatten(1).norm(dim=1).view(-1, 1, 1, 1)
        length = guided.flatten(1).norm(dim=1).view(-1, 1, 1, 1)
        return guided.where((factors == 0) | (length <= limit), guided * (limit / length))

    def conditioning(
        self, request: Request, encoded: list[Named], shape: tuple[int, int, int]
    ) -> list[dict[str, torch.Tensor]]:
        length = self.text_length(request)
        lanes = []
        for text, named in zip(self.texts(request), encoded, strict=False):
            lane = {name: tensor[:length] for name, tensor in named.items()}
            lane["freqs"] = self._picture_freqs(self._padded(text.content), shape[1] // 2, shape[2] // 2)
            lanes.append(lane)
        return lanes

    def predict(
        self, run: Callable[..., Any], latents: torch.Tensor, timesteps: torch.Tensor, conditioning: Named
    ) -> torch.Tensor:
        # The transformer's time runs from 0 to 1, and its velocity points towards the picture.
        captions, valid, freqs = (conditioning[name] for name in ("captions", "valid", "freqs"))
        return -run(latents, (1000 - timesteps) / 1000, captions, valid, freqs)

    def _forward(
        self,
        transformer: Any,
        latents: torch.Tensor,
        times: torch.Tensor,
        captions: torch.Tensor,
        valid: torch.Tensor,
        freqs: torch.Tensor,
    ) -> torch.Tensor:
        """ZImageTransformer2DModel.forward for lanes: picture tokens first, then text tokens."""
        embedded_time = transformer.t_embedder(times * transformer.t_scale).to(latents.dtype)
        hidden = transformer.all_x_embedder[PATCH](pack(latents, channels_last=True))
        batch, count, _ = hidden.shape
        hidden = torch.cat([hidden, transformer.x_pad_token.expand(batch, freqs.shape[1] - count, -1)], dim=1)
        for layer in transformer.noise_refiner:
            hidden = layer(hidden, None, freqs, embedded_time)
        text_freqs = self._caption_freqs(captions.shape[1]).expand(batch, -1, -1)
        mask = torch.cat([valid.new_ones(batch, hidden.shape[1]), valid], dim=1)
        hidden, freqs = torch.cat([hidden, captions], dim=1), torch.cat([freqs, text_freqs], dim=1)
        for layer in transformer.layers:
            hidden = layer(hidden, mask, freqs, embedded_time)
        hidden = transformer.all_final_layer[PATCH](hidden, c=embedded_time)[:, :count]
        return unpack(hidden, latents.shape, channels_last=True)

    def _padded(self, text: str) -> int:
        """Tokens of a text, including the padding that is attended to."""
        count = min(self.count_tokens(text), self.info.max_tokens)
        return -(-count // MULTIPLE) * MULTIPLE

    def _caption_freqs(self, length: int) -> torch.Tensor:
        """Rotary embeddings of a text's positions 1 … length, complex (length, dim)."""
        places = torch.zeros(length, 3, dtype=torch.int64, device=self.device)
        places[:, 0] = torch.arange(1, length + 1, device=self.device)
        return self.denoiser.rope_embedder(places)

    def _picture_freqs(self, after: int, height: int, width: int) -> torch.Tensor:
        """Rotary embeddings of picture tokens and their padding, positioned after a text, complex (tokens, dim)."""
        count = height * width
        places = torch.zeros(count + -count % MULTIPLE, 3, dtype=torch.int64)
        grid = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
        places[:count, 0] = after + 1
        places[:count, 1:] = torch.stack(grid, dim=-1).view(count, 2)
        return self.denoiser.rope_embedder(send(places, self.device))
