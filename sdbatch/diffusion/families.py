"""What is particular to a family of models: its conditioning, its denoiser, its decoder.

A family says, for a row: how many lanes it takes, which texts it needs encoded, its start latents, its
coefficient table, and the named tensors that condition each of its lanes. It runs the denoiser on stacked
lanes and decodes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import torch

from sdbatch.diffusion.attention import TextProjection, fuse_self_attention
from sdbatch.diffusion.cpu import use_onednn
from sdbatch.diffusion.deep_cache import DeepCache
from sdbatch.diffusion.guidance import is_guided
from sdbatch.diffusion.models import ModelInfo
from sdbatch.diffusion.request import Request
from sdbatch.diffusion.samplers import resolve
from sdbatch.diffusion.tables import Table, build_scheduler, compile_table
from sdbatch.diffusion.transfer import send

__all__ = ["Parts", "StableDiffusion", "StableDiffusionXL"]

Named = Mapping[str, torch.Tensor]


@dataclass
class Parts:
    """A checkpoint in memory; `tokenizers` and `text_encoders` are pairs for SDXL."""

    info: ModelInfo
    tokenizers: list
    text_encoders: list[torch.nn.Module]
    unet: torch.nn.Module
    vae: torch.nn.Module
    scheduler_config: Mapping[str, object]
    index: Mapping[str, object] = field(default_factory=dict)


class StableDiffusion:
    """Stable Diffusion 1.x and 2.x (Rombach et al. 2022), and what is distilled from them (LCM, SD-Turbo)."""

    def __init__(self, parts: Parts):
        self.info = parts.info
        self.unet = parts.unet
        self.vae = parts.vae
        self.device = parts.unet.device
        self.dtype = parts.unet.dtype
        self._parts = parts
        # What the pipeline sets over the checkpoint's own scheduler configuration.
        outdated = parts.index.get("_class_name") == "StableDiffusionPipeline"
        self._forced_scheduler_config = {"steps_offset": 1} if outdated else {}
        self._tables: dict[tuple[str, int], Table] = {}
        self._deep_cache: DeepCache | None = None
        self._compiled: Callable | None = None
        # Convolutions over channels that lie side by side are faster: on a CPU 1.08 times in the UNet, 1.8 in the VAE.
        self.unet.to(memory_format=torch.channels_last)
        self.vae.to(memory_format=torch.channels_last)
        fuse_self_attention(self.unet)
        self._text = TextProjection(self.unet)
        if self.device.type == "cpu" and self.dtype == torch.float32:
            use_onednn(self.unet)
            use_onednn(self._text)

    def latent_shape(self, height: int, width: int) -> tuple[int, int, int]:
        scale = 2 ** (len(self.vae.config.block_out_channels) - 1)
        return self.unet.config.in_channels, height // scale, width // scale

    def table(self, request: Request) -> Table:
        """The row's coefficient table.

        Raises:
            SamplerError: its sampler and steps do not go with this model.
        """
        key = resolve(request.sampler), int(request.steps)
        if key not in self._tables:
            sampler, steps = key
            scheduler = build_scheduler(sampler, self._parts.scheduler_config, self._forced_scheduler_config)
            self._tables[key] = compile_table(scheduler, steps)
        return self._tables[key]

    def start_latents(self, shape: tuple[int, int, int], generator: torch.Generator) -> torch.Tensor:
        """N(0, I), float32, the first draw from the row's generator."""
        return torch.randn(1, *shape, generator=generator)[0]

    def count_tokens(self, text: str) -> int:
        """Tokens of a text, special ones included, before truncation."""
        return max(len(tokenizer(text, verbose=False).input_ids) for tokenizer in self._parts.tokenizers)

    def texts(self, request: Request) -> list[str]:
        """What must be encoded for a row: its prompt, then its negative prompt if that is needed."""
        return [request.prompt, request.negative_prompt] if is_guided(request, self.info) else [request.prompt]

    def encode(self, texts: list[str]) -> Named:
        """Named tensors, one entry a text; the caller keeps the batch shape fixed."""
        ids, mask = self._tokenize(self._parts.tokenizers[0], texts)
        encoder = self._parts.text_encoders[0]
        if not getattr(encoder.config, "use_attention_mask", False):
            mask = None
        return {"encoder_hidden_states": encoder(ids, attention_mask=mask)[0].to(self.dtype)}

    def conditioning(
        self, request: Request, encoded: list[Named], shape: tuple[int, int, int]
    ) -> list[dict[str, torch.Tensor]]:
        """Named tensors of the row's conditional lane, then of its unconditional one if it has one."""
        lanes = [
            dict(named) | {"encoder_hidden_states": self._text(named["encoder_hidden_states"])} for named in encoded
        ]
        if self.info.guidance_embedded:
            embedding = guidance_embedding(request.guidance_scale - 1, self.unet.config.time_cond_proj_dim)
            lanes[0]["timestep_cond"] = send(embedding.to(self.dtype), self.device)
        return lanes

    def denoise(
        self,
        latents: torch.Tensor,
        timesteps: torch.Tensor,
        conditioning: Named,
        features: torch.Tensor | None = None,
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """What the UNet predicts for stacked lanes, in its own dtype.

        Args:
            features: with DeepCache, the deep features that the same rows had at an earlier call; None to make them.

        Returns:
            The prediction, and with DeepCache the deep features.
        """
        run = self._runner(latents)
        latents = latents.to(self.dtype, memory_format=torch.channels_last)
        named = {
            "encoder_hidden_states": conditioning["encoder_hidden_states"],
            "timestep_cond": conditioning.get("timestep_cond"),
            "added_cond_kwargs": self._added(conditioning),
        }
        if self._deep_cache is not None:
            return run(latents, timesteps, features=features, **named)
        return run(latents, timesteps, return_dict=False, **named)[0], None

    def cache_deep_features(self) -> None:
        """Have `denoise` make deep features, and take them.

        Raises:
            ModelError: it can't be done with this UNet.
        """
        self._deep_cache = DeepCache(self.unet)

    def compile(self) -> None:
        """Have torch.compile run the UNet at the model's own size.

        Other sizes stay as they are: each would take a minute, and which of them got compiled before torch
        gives up would depend on the order of the rows.
        """
        self._compiled = torch.compile(self._deep_cache or self.unet, dynamic=False)

    def decompile(self) -> None:
        self._compiled = None

    def decode(self, latents: torch.Tensor) -> torch.Tensor:
        """Pictures (B, 3, H, W), nominally within ±1, of float32 latents (B, C, h, w)."""
        latents = self._unscale(latents).to(self.vae.dtype, memory_format=torch.channels_last)
        return self.vae.decode(latents, return_dict=False)[0]

    def _runner(self, latents: torch.Tensor) -> Callable:
        own_size = latents.shape[1:] == self.latent_shape(self.info.height, self.info.width)
        if self._compiled is not None and own_size:
            return self._compiled
        return self._deep_cache or self.unet

    def _unscale(self, latents: torch.Tensor) -> torch.Tensor:
        return latents / self.vae.config.scaling_factor

    def _added(self, conditioning: Named) -> dict[str, torch.Tensor] | None:
        return None

    def _tokenize(self, tokenizer, texts: list[str]) -> tuple[torch.Tensor, torch.Tensor]:
        tokens = tokenizer(
            texts,
            padding="max_length",
            max_length=self.info.max_tokens,
            truncation=True,
            return_tensors="pt",
        )
        return send(tokens.input_ids, self.device), send(tokens.attention_mask, self.device)


class StableDiffusionXL(StableDiffusion):
    """Stable Diffusion XL (Podell et al. 2023): two text encoders, pooled text, size conditioning."""

    def __init__(self, parts: Parts):
        super().__init__(parts)
        self._zero_negative = bool(parts.index.get("force_zeros_for_empty_prompt", True))

    def texts(self, request: Request) -> list[str]:
        if self._zero_negative and not request.negative_prompt:
            return [request.prompt]
        return super().texts(request)

    def encode(self, texts: list[str]) -> Named:
        hidden_states = []
        for tokenizer, encoder in zip(self._parts.tokenizers, self._parts.text_encoders, strict=True):
            ids, _ = self._tokenize(tokenizer, texts)
            output = encoder(ids, output_hidden_states=True)
            hidden_states.append(output.hidden_states[-2])
        # The pooled embedding is the last encoder's, as in StableDiffusionXLPipeline.encode_prompt.
        return {
            "encoder_hidden_states": torch.cat(hidden_states, dim=-1).to(self.dtype),
            "text_embeds": output[0].to(self.dtype),
        }

    def conditioning(
        self, request: Request, encoded: list[Named], shape: tuple[int, int, int]
    ) -> list[dict[str, torch.Tensor]]:
        if is_guided(request, self.info) and len(encoded) == 1:
            encoded = [encoded[0], {name: torch.zeros_like(tensor) for name, tensor in encoded[0].items()}]
        scale = 2 ** (len(self.vae.config.block_out_channels) - 1)
        height, width = shape[1] * scale, shape[2] * scale
        # original size, crop's top left, target size
        time_ids = torch.tensor([height, width, 0, 0, height, width], dtype=torch.float32)
        lanes = super().conditioning(request, encoded, shape)
        return [named | {"time_ids": send(time_ids, self.device)} for named in lanes]

    def _unscale(self, latents: torch.Tensor) -> torch.Tensor:
        mean, std = self.vae.config.latents_mean, self.vae.config.latents_std
        if mean is None or std is None:
            return super()._unscale(latents)
        mean, std = (torch.tensor(values, device=self.device).view(1, -1, 1, 1) for values in (mean, std))
        return latents * std / self.vae.config.scaling_factor + mean

    def _added(self, conditioning: Named) -> dict[str, torch.Tensor]:
        return {name: conditioning[name] for name in ("text_embeds", "time_ids")}


def guidance_embedding(w: float, dimension: int) -> torch.Tensor:
    """Sinusoidal embedding (dimension,) of the guidance weight w = scale − 1 (Meng et al. 2023)."""
    half = dimension // 2
    frequencies = torch.exp(torch.arange(half) * -(torch.log(torch.tensor(10000.0)) / (half - 1)))
    angles = torch.tensor(w, dtype=torch.float32) * 1000.0 * frequencies
    embedding = torch.cat([torch.sin(angles), torch.cos(angles)])
    return torch.nn.functional.pad(embedding, (0, dimension % 2))
