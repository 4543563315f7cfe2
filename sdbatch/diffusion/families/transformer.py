"""The base class of the engine halves of diffusion transformers (Peebles & Xie 2023)."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Collection, Hashable, Sequence
from functools import cached_property
from typing import Any, Self

import torch
from diffusers.models.resnet import ResnetBlock2D

from sdbatch.diffusion.accelerate.block_cache import BlockCache
from sdbatch.diffusion.accelerate.compilation import CompiledShapes, compiled, compiled_decoder
from sdbatch.diffusion.adapters.lora_files import lora_model
from sdbatch.diffusion.adapters.residuals import Residuals
from sdbatch.diffusion.adapters.row_loras import RowLoras
from sdbatch.diffusion.device.residency import Residency
from sdbatch.diffusion.device.transfer import send
from sdbatch.diffusion.embeddings import Text
from sdbatch.diffusion.families.family import Checkpoint, Family, Named
from sdbatch.diffusion.guidance import is_guided
from sdbatch.diffusion.pictures.picture_encoders import PictureEncoder, VaeImages
from sdbatch.diffusion.pictures.picture_pixels import Pixels
from sdbatch.diffusion.request import Request

__all__ = ["Transformer", "pack", "unpack"]

IMAGE_TO_IMAGE = "image-to-image"


class Transformer(Family):
    """A transformer over patches of latents, an autoencoder, and texts of a fixed length.

    Attributes:
        prompt_tokenizer: the name of the tokenizer whose token count decides whether a prompt is truncated.
        block_lists: the names of the transformer's lists of blocks, in order.
        decoder_blocks: the classes of the repeated blocks of the VAE's decoder, none of them inside another.
        text_modules: prefixes of the names of the transformer's weights that `encode` uses.
        network: the callable that runs, and is compiled: the transformer, or a family's own forward of its layers.
    """

    prompt_tokenizer = "tokenizer"
    block_lists: tuple[str, ...] = ("transformer_blocks",)
    decoder_blocks: tuple[type[torch.nn.Module], ...] = (ResnetBlock2D,)
    text_modules: tuple[str, ...] = ()

    def __init__(self, checkpoint: Checkpoint):
        super().__init__(checkpoint.info, checkpoint.scheduler_config, checkpoint.index)
        self.parts = checkpoint.parts
        self.denoiser = checkpoint.parts["transformer"]
        self.vae = checkpoint.parts["vae"]
        self.device = checkpoint.device
        self.dtype = checkpoint.dtype
        self.network = self.network_of(self.denoiser)
        self._block_cache: BlockCache | None = None
        self._compiled = self._compiled_decode = CompiledShapes()
        if IMAGE_TO_IMAGE in self.info.tasks:
            self.encoders["image"] = self.picture_encoder()

    def network_of(self, transformer: torch.nn.Module) -> Callable[..., Any]:
        """The callable that runs a transformer with the same blocks as the model's own."""
        return transformer

    def picture_encoder(self) -> PictureEncoder:
        """Encodes the pictures that rows start from to latents."""
        return VaeImages(self.vae, Pixels(self.info.vae_scale), shift_factor=self.vae.config.shift_factor)

    @cached_property
    def loras(self) -> RowLoras:
        """Created for the first row that has any."""
        model, like = lora_model(self.info), torch.empty(0, device=self.device, dtype=self.dtype)
        once_per_text = self.once_per_text()
        # To encode texts, the transformer's own layers get their LoRAs in another copy of it than the passes use.
        encoders = {model.denoiser: self.denoiser} if once_per_text else {}
        return RowLoras(model, self.denoiser, like, encoders, once_per_text)

    def release_text_encoders(self) -> None:
        encoders = [part for name, part in self.parts.items() if name.startswith("text_encoder")]
        self.residency = Residency(encoders, self.denoiser, self.text_modules, self.device)

    def once_per_text(self) -> set[str]:
        """Layers of the transformer that run when texts are encoded, and in no pass."""
        return set()

    @cached_property
    def lora_network(self) -> Callable[..., Any]:
        """The callable for rows with LoRAs. It is never compiled: every rank would take a minute."""
        network = self.loras.network
        return self.network_of(network) if self._block_cache is None else self._cached(network)

    @classmethod
    def of(cls, checkpoint: Checkpoint) -> Self:
        return cls(checkpoint)

    def latent_shape(self, height: int, width: int) -> tuple[int, int, int]:
        scale = 2 ** (len(self.vae.config.block_out_channels) - 1)
        return self.vae.config.latent_channels, height // scale, width // scale

    def count_tokens(self, text: str) -> int:
        return len(self.parts[self.prompt_tokenizer](text, verbose=False).input_ids)

    def texts(self, request: Request) -> list[Text]:
        texts = [Text("prompt", request.prompt)]
        return [*texts, Text("negative", request.negative_prompt)] if is_guided(request, self.info) else texts

    def lane_key(self, request: Request) -> Hashable:
        length, rank = self.text_length(request), self.lora_rank(request)
        own: Hashable = () if length is None else length
        return (own, "lora", rank) if rank else own

    def text_length(self, request: Request) -> int | None:
        """The number of tokens of the row's texts in a pass, if it differs from row to row."""
        return None

    def conditioning(
        self, request: Request, encoded: list[Named], shape: tuple[int, int, int]
    ) -> list[dict[str, torch.Tensor]]:
        return [dict(named) for named in encoded]

    def denoise(
        self,
        latents: torch.Tensor,
        timesteps: torch.Tensor,
        conditioning: Named,
        features: torch.Tensor | None = None,
        residuals: Residuals | None = None,
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        run, latents = self._runner(latents), latents.to(self.dtype)
        if self._block_cache is None:
            return self.predict(run, latents, timesteps, conditioning), None
        made = [features]

        def cached(*args: Any, **named: Any) -> Any:
            output, made[0] = run(*args, features=features, **named)
            return output

        return self.predict(cached, latents, timesteps, conditioning), made[0]

    def cache_deep_features(self) -> None:
        """Make `denoise` return what the blocks after the first add, and accept it."""
        self._block_cache = self._cached(self.denoiser)

    def _cached(self, transformer: torch.nn.Module) -> BlockCache:
        lists = [name for name in self.block_lists if len(getattr(transformer, name))]
        return BlockCache(transformer, lists, self.network_of)

    def _runner(self, latents: torch.Tensor) -> Callable[..., Any]:
        if "loras" in self.__dict__ and self.loras.is_applied:
            return self.lora_network
        return self._compiled.at(latents.shape[1:], self._block_cache or self.network)

    @abstractmethod
    def predict(
        self, run: Callable[..., Any], latents: torch.Tensor, timesteps: torch.Tensor, conditioning: Named
    ) -> torch.Tensor:
        """The velocity (L, C, h, w) that the transformer predicts.

        Args:
            run: `network`, compiled or not.
            latents: (L, C, h, w) in the transformer's dtype.
            timesteps: float32 (L,), 1000·σ.
        """

    def decode(self, latents: torch.Tensor) -> torch.Tensor:
        decode = self._compiled_decode.at(latents.shape, self.vae.decode)
        return decode(self.unscale(latents).to(self.vae.dtype), return_dict=False)[0]

    def unscale(self, latents: torch.Tensor) -> torch.Tensor:
        """The latents of the VAE for those of the passes, float32 (B, C, h, w)."""
        config = self.vae.config
        return latents / config.scaling_factor + (config.shift_factor or 0.0)

    def compile(self, shapes: Collection[tuple[int, int, int]], decode_batch: int, *, blocks: bool = False) -> None:
        repeated = [block for name in self.block_lists for block in getattr(self.denoiser, name)] if blocks else None
        call = compiled(self._block_cache or self.network, self.device, len(shapes), repeated)
        self._compiled = CompiledShapes(call, shapes)
        self._compiled_decode = compiled_decoder(
            self.vae, self.device, shapes, decode_batch, self.decoder_blocks if blocks else None
        )

    def decompile(self) -> None:
        self._compiled = self._compiled_decode = CompiledShapes()

    def chat(self, text: str, **options: Any) -> str:
        """A text as a user's message, in the chat template of the model's tokenizer."""
        message = [{"role": "user", "content": text}]
        return self.parts["tokenizer"].apply_chat_template(
            message, tokenize=False, add_generation_prompt=True, **options
        )

    def keep_whole(self) -> set[torch.nn.Module]:
        """The layers before and after the blocks: embeddings of latents, texts and timesteps, and the last layers."""
        blocks = [layers for layers in self.denoiser.modules() if isinstance(layers, torch.nn.ModuleList)]
        return set(self.denoiser.modules()) - {module for layers in blocks for module in layers.modules()}

    def tokenize(
        self, part: str, texts: Sequence[str], length: int, **options: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Token ids and mask (B, length) of texts, padded and truncated to `length`."""
        tokens = self.parts[part](
            list(texts), padding="max_length", max_length=length, truncation=True, return_tensors="pt", **options
        )
        return send(tokens.input_ids, self.device), send(tokens.attention_mask, self.device)


def pack(latents: torch.Tensor, *, channels_last: bool = False) -> torch.Tensor:
    """Pack latents (B, C, h, w) into tokens (B, h/2·w/2, 4·C) of 2×2 latents each.

    Args:
        channels_last: whether a token has all channels of its first latent first, not all latents of its first channel.
    """
    batch, channels, height, width = latents.shape
    order = (0, 2, 4, 3, 5, 1) if channels_last else (0, 2, 4, 1, 3, 5)
    patches = latents.view(batch, channels, height // 2, 2, width // 2, 2).permute(order)
    return patches.reshape(batch, (height // 2) * (width // 2), 4 * channels)


def unpack(tokens: torch.Tensor, shape: Sequence[int], *, channels_last: bool = False) -> torch.Tensor:
    """Undo `pack`: latents of shape (B, C, h, w)."""
    batch, channels, height, width = shape
    if channels_last:
        patches = tokens.view(batch, height // 2, width // 2, 2, 2, channels).permute(0, 5, 1, 3, 2, 4)
    else:
        patches = tokens.view(batch, height // 2, width // 2, channels, 2, 2).permute(0, 3, 1, 4, 2, 5)
    return patches.reshape(batch, channels, height, width)
