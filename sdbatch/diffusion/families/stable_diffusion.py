"""Stable Diffusion 1.x and 2.x (Rombach et al. 2022), and models distilled from them (LCM, SD-Turbo)."""

from __future__ import annotations

from collections.abc import Callable, Collection, Hashable, Sequence
from functools import cached_property, partial
from typing import Self

import torch
from diffusers.models.attention import BasicTransformerBlock
from diffusers.models.attention_processor import Attention
from diffusers.models.resnet import ResnetBlock2D

from sdbatch.diffusion.accelerate.attention import TextProjection, fuse_self_attention
from sdbatch.diffusion.accelerate.compilation import CompiledShapes, compiled, compiled_decoder
from sdbatch.diffusion.accelerate.cpu import use_onednn
from sdbatch.diffusion.accelerate.deep_cache import DeepCache
from sdbatch.diffusion.adapters.ip_adapter_nets import sets_of
from sdbatch.diffusion.adapters.lora_files import lora_model
from sdbatch.diffusion.adapters.net_fields import nets_named
from sdbatch.diffusion.adapters.residuals import Residuals
from sdbatch.diffusion.adapters.unet_loras import UNetLoras
from sdbatch.diffusion.device.numerics import tf32_convolutions
from sdbatch.diffusion.device.transfer import send
from sdbatch.diffusion.embeddings import Text
from sdbatch.diffusion.families.clip_texts import WOVEN, ClipTexts, Prompts
from sdbatch.diffusion.families.components import Components
from sdbatch.diffusion.families.family import Checkpoint, Family, Named
from sdbatch.diffusion.guidance import is_guided, rescale
from sdbatch.diffusion.pictures.picture_encoders import picture_encoders
from sdbatch.diffusion.request import Request
from sdbatch.errors import PromptError

__all__ = ["StableDiffusion"]

# The classes of the repeated blocks in UNet and VAE, none of them inside another.
REPEATED = (BasicTransformerBlock, ResnetBlock2D)


class StableDiffusion(Family):
    """Runs StableDiffusionPipeline and LatentConsistencyModelPipeline."""

    takes_penultimate = False

    def __init__(self, components: Components):
        super().__init__(components.info, components.scheduler_config, components.index)
        self.denoiser = components.unet
        self.vae = components.vae
        self.device = components.unet.device
        self.dtype = components.unet.dtype
        self._text_encoders = components.text_encoders
        self._clip = ClipTexts(
            components.tokenizers,
            components.text_encoders,
            components.info.max_tokens,
            self.device,
            penultimate=self.takes_penultimate,
        )
        self._deep_cache: DeepCache | None = None
        self._compiled = self._compiled_decode = CompiledShapes()
        # A float32 decoder in a half-precision model needs the range of float32, not its precision.
        self.tf32_decoder = self.vae.dtype == torch.float32 != self.dtype
        # channels_last makes convolutions faster: on a CPU by 1.08 in the UNet, by 1.8 in the VAE.
        self.denoiser.to(memory_format=torch.channels_last)
        self.vae.to(memory_format=torch.channels_last)
        self.encoders = picture_encoders(components)
        fuse_self_attention(self.denoiser)
        self._text = TextProjection(self.denoiser)
        if self.device.type == "cpu" and self.dtype == torch.float32:
            use_onednn(self.denoiser)
            use_onednn(self._text)

    @classmethod
    def of(cls, checkpoint: Checkpoint) -> Self:
        parts = checkpoint.parts
        return cls(
            Components(
                info=checkpoint.info,
                tokenizers=[part for name, part in parts.items() if name.startswith("tokenizer")],
                text_encoders=[part for name, part in parts.items() if name.startswith("text_encoder")],
                unet=parts["unet"],
                vae=parts["vae"],
                scheduler_config=checkpoint.scheduler_config,
                index=checkpoint.index,
                parts=parts,
            )
        )

    @cached_property
    def loras(self) -> UNetLoras:
        """Created for the first row with LoRAs."""
        return UNetLoras(lora_model(self.info), self.denoiser, self._text, self._text_encoders)

    def latent_shape(self, height: int, width: int) -> tuple[int, int, int]:
        scale = 2 ** (len(self.vae.config.block_out_channels) - 1)
        return self.vae.config.latent_channels, height // scale, width // scale

    def task_inputs(self, shape: tuple[int, int, int]) -> Named:
        inputs = {}
        if self.info.extra_channels:
            inputs["channels"] = torch.zeros(self.info.extra_channels, *shape[1:], device=self.device)
        config = self.denoiser.config
        if config.class_embed_type == "projection":
            inputs["class_labels"] = torch.zeros(config.projection_class_embeddings_input_dim, device=self.device)
        elif config.num_class_embeds:
            inputs["class_labels"] = torch.zeros((), dtype=torch.long, device=self.device)
        return inputs

    def renormalise(self, guided: torch.Tensor, conditional: torch.Tensor, factors: torch.Tensor) -> torch.Tensor:
        return rescale(guided, conditional, factors)

    def lane_key(self, request: Request) -> Hashable:
        chunks, rank = len(self._lane_texts(request)[0]), self.lora_rank(request)
        for text in self.texts(request) if request.extra.get("lora") is not None else ():
            if text.role == WOVEN and text.adapters:
                path = text.adapters[0].path
                raise PromptError(f"{path} changes the text encoder, which does not work with compel's syntax")
        # Rows with networks share passes with others, except those whose passes are compiled.
        apart = bool(self._compiled) and nets_named(request)
        return (
            *(("chunks", chunks) if chunks > 1 else ()),
            *(("lora", rank) if rank else ()),
            *(("networks",) if apart else ()),
        )

    def count_tokens(self, text: str) -> int:
        return self._clip.count_tokens(text)

    def prompt_tokens(self, request: Request) -> tuple[int, bool]:
        return self._clip.prompt_tokens(request)

    def texts(self, request: Request) -> list[Text]:
        texts = [text for lane in self._lane_texts(request) for text in lane]
        if request.extra.get("lora") is None:
            return texts
        adapters = self.loras.text_key(request)
        return [text._replace(adapters=adapters) for text in texts]

    def prompts(self, request: Request) -> tuple[Prompts, ...]:
        """The text encoders' inputs for the row's conditional lane, then for its unconditional one."""
        lanes = ((request.prompt,), (request.negative_prompt,))
        return lanes if is_guided(request, self.info) else lanes[:1]

    def encode(self, texts: list[Text]) -> Named:
        if any(text.adapters for text in texts):
            return self.loras.encode(texts, self._encode)
        return self._encode(texts, self._text_encoders)

    def _encode(self, texts: list[Text], encoders: Sequence[torch.nn.Module]) -> Named:
        states, _ = self._clip.encode(texts, encoders)
        return {"encoder_hidden_states": states[0].to(self.dtype)}

    def conditioning(
        self, request: Request, encoded: list[Named], shape: tuple[int, int, int]
    ) -> list[dict[str, torch.Tensor]]:
        return self._project(request, self.joined(request, encoded))

    def _lane_texts(self, request: Request) -> tuple[tuple[Text, ...], ...]:
        return self._clip.lanes(request, self.prompts(request))

    def joined(self, request: Request, encoded: list[Named]) -> list[Named]:
        """Concatenate the chunks of each lane; tensors that are not token states are those of the first chunk."""
        chunks = len(self._lane_texts(request)[0])
        if chunks == 1:
            return encoded
        lanes = [encoded[i : i + chunks] for i in range(0, len(encoded), chunks)]
        name = "encoder_hidden_states"
        return [{**lane[0], name: torch.cat([chunk[name] for chunk in lane])} for lane in lanes]

    def _project(self, request: Request, encoded: list[Named]) -> list[dict[str, torch.Tensor]]:
        project = self._text if request.extra.get("lora") is None else partial(self.loras.keys_values, request)
        lanes = [dict(named) | {"encoder_hidden_states": project(named["encoder_hidden_states"])} for named in encoded]
        if self.info.guidance_embedded:
            embedding = guidance_embedding(request.guidance_scale - 1, self.denoiser.config.time_cond_proj_dim)
            lanes[0]["timestep_cond"] = send(embedding.to(self.dtype), self.device)
        return lanes

    def denoise(
        self,
        latents: torch.Tensor,
        timesteps: torch.Tensor,
        conditioning: Named,
        features: torch.Tensor | None = None,
        residuals: Residuals | None = None,
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        # If compiled, passes with and without residuals would round differently, so neither is compiled.
        run = self._runner(latents, compiled=residuals is None)
        if "channels" in conditioning:
            latents = torch.cat([latents, conditioning["channels"]], dim=1)
        latents = latents.to(self.dtype, memory_format=torch.channels_last)
        named = {
            "encoder_hidden_states": conditioning["encoder_hidden_states"],
            "timestep_cond": conditioning.get("timestep_cond"),
            "added_cond_kwargs": self._added(conditioning),
            "class_labels": self._labels(conditioning),
        }
        if residuals and residuals.skips:
            *named["down_block_additional_residuals"], named["mid_block_additional_residual"] = residuals.skips
        if residuals and residuals.intrablock:
            named["down_intrablock_additional_residuals"] = list(residuals.intrablock)  # the UNet empties it
        with self._text.images.shown(sets_of(conditioning)):
            if self._deep_cache is not None:
                return run(latents, timesteps, features=features, **named)
            return run(latents, timesteps, return_dict=False, **named)[0], None

    def cache_deep_features(self) -> None:
        """Make `denoise` return deep features and accept them.

        Raises:
            ModelError: the UNet does not support DeepCache.
        """
        self._deep_cache = DeepCache(self.denoiser)

    def compile(self, shapes: Collection[tuple[int, int, int]], decode_batch: int, *, blocks: bool = False) -> None:
        repeated = [block for block in self.denoiser.modules() if isinstance(block, REPEATED)] if blocks else None
        call = compiled(self._deep_cache or self.denoiser, self.device, len(shapes), repeated)
        self._compiled = CompiledShapes(call, shapes)
        self._compiled_decode = compiled_decoder(
            self.vae, self.device, shapes, decode_batch, REPEATED if blocks else None
        )

    def decompile(self) -> None:
        self._compiled = self._compiled_decode = CompiledShapes()

    def decode(self, latents: torch.Tensor) -> torch.Tensor:
        decode = self._compiled_decode.at(latents.shape, self.vae.decode)
        latents = self._unscale(latents).to(self.vae.dtype, memory_format=torch.channels_last)
        with tf32_convolutions(self.tf32_decoder):
            return decode(latents, return_dict=False)[0]

    def keep_whole(self) -> set[torch.nn.Module]:
        """The first and last convolutions, as is usual, and the texts' keys and values, which passes do not compute."""
        kept = {self.denoiser.conv_in, self.denoiser.conv_out}
        for layer in self.denoiser.modules():
            if isinstance(layer, Attention) and layer.is_cross_attention:
                kept |= {layer.to_k, layer.to_v}
        return kept

    @cached_property
    def _lora_network(self) -> torch.nn.Module:
        """The network for rows with LoRAs. It is never compiled: every rank would take a minute."""
        return self.loras.network if self._deep_cache is None else DeepCache(self.loras.network)

    def _runner(self, latents: torch.Tensor, *, compiled: bool = True) -> Callable:
        if "loras" in self.__dict__ and self.loras.is_applied:
            return self._lora_network
        network = self._deep_cache or self.denoiser
        return self._compiled.at(latents.shape[1:], network) if compiled else network

    def _unscale(self, latents: torch.Tensor) -> torch.Tensor:
        return latents / self.vae.config.scaling_factor

    def _labels(self, conditioning: Named) -> torch.Tensor | None:
        labels = conditioning.get("class_labels")
        return labels.to(self.dtype) if labels is not None and labels.is_floating_point() else labels

    def _added(self, conditioning: Named) -> dict[str, torch.Tensor] | None:
        return None


def guidance_embedding(w: float, dimension: int) -> torch.Tensor:
    """Sinusoidal embedding (dimension,) of the guidance weight w = scale − 1 (Meng et al. 2023)."""
    half = dimension // 2
    frequencies = torch.exp(torch.arange(half) * -(torch.log(torch.tensor(10000.0)) / (half - 1)))
    angles = torch.tensor(w, dtype=torch.float32) * 1000.0 * frequencies
    embedding = torch.cat([torch.sin(angles), torch.cos(angles)])
    return torch.nn.functional.pad(embedding, (0, dimension % 2))
