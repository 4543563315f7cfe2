"""Stable Diffusion 1.x, 2.x and XL: checks of their folders, and facts read from them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from sdbatch.diffusion.adapters.lora_rows import LORA
from sdbatch.diffusion.adapters.net_fields import NET_FIELDS, net_refusal
from sdbatch.diffusion.adapters.t2i_adapter_files import unet_features
from sdbatch.diffusion.adapters.t2i_adapter_rows import ADAPTER_FACTOR, adapter_size_refusal
from sdbatch.diffusion.checkpoints.architectures import CLIP_TEXT, SCHEDULER, UNET, VAE_OR_TINY, is_tiny, latent_scale
from sdbatch.diffusion.checkpoints.configs import Config, Kind, boolean, read_config
from sdbatch.diffusion.checkpoints.model_info import ModelInfo
from sdbatch.diffusion.families.declaration import Declaration, Part, network, scheduler, text_encoder, tokenizer
from sdbatch.diffusion.families.text_fields import TEXT_FIELDS, XL_FIELDS, refused_prompts, refused_wording
from sdbatch.diffusion.request import Request
from sdbatch.diffusion.samplers.catalogue import SAMPLERS
from sdbatch.diffusion.tasks import task_of
from sdbatch.errors import ModelError
from sdbatch.fields import Field

__all__ = ["StableDiffusionFamily", "StableDiffusionXLFamily", "refuse_deep_cache"]

# Keys that change a UNet's conditioning or attention; no checkpoint of these families has any.
UNSUPPORTED_IN_UNET = (
    "class_embed_type",
    "num_class_embeds",
    "encoder_hid_dim",
    "encoder_hid_dim_type",
    "cross_attention_norm",
    "dual_cross_attention",
)
TEXT, IMAGE, INPAINTING = "text-to-image", "image-to-image", "inpainting"
NET_TASKS = (TEXT, IMAGE, INPAINTING)
# Pipelines that override `steps_offset` of the scheduler's configuration.
OFFSET_BY_ONE = ("StableDiffusionPipeline", "StableDiffusionImg2ImgPipeline", "StableDiffusionInpaintPipeline")
OTHER_TASKS = {9: "inpainting", 8: "image editing", 5: "depth-conditioned", 7: "upscaling"}
# The last block of a UNet whose layers DeepCache can run by themselves.
DEEP_CACHE_BLOCKS = ("UpBlock2D", "CrossAttnUpBlock2D")
CLIP_TOKENIZERS = ("CLIPTokenizer", "CLIPTokenizerFast")


class StableDiffusionFamily(Declaration):
    """The first two generations (Rombach et al. 2022), and models distilled from them (LCM, SD-Turbo).

    Attributes:
        tasks: by pipeline, the tasks of checkpoints whose UNet gets latents alone; the first one is the default.
        channels: other numbers of UNet input channels, as a constant plus a multiple of the latents' channels, with
            the task that each stands for.
        unet_keys: the keys of `UNSUPPORTED_IN_UNET` that their UNets may have.
        unused_layers: the number of last text encoder layers that no row uses.
    """

    name = "sd"
    title = "Stable Diffusion 1.x and 2.x"
    tasks: Mapping[str, tuple[str, ...]] = {
        "StableDiffusionPipeline": (TEXT, IMAGE, INPAINTING),
        "StableDiffusionImg2ImgPipeline": (IMAGE, TEXT, INPAINTING),
        "StableDiffusionInpaintPipeline": (INPAINTING, IMAGE, TEXT),
        "LatentConsistencyModelPipeline": (TEXT, IMAGE),
    }
    channels: Mapping[str, tuple[int, int, str]] = {
        "StableDiffusionInpaintPipeline": (1, 1, INPAINTING),
        "StableDiffusionInstructPix2PixPipeline": (0, 1, "instruct-edit"),
    }
    pipelines = tuple(dict.fromkeys([*tasks, *channels]))
    takes_embeddings = True
    unet_keys: tuple[str, ...] = ()
    unused_layers = 0
    parts: tuple[Part, ...] = (
        text_encoder("text_encoder", CLIP_TEXT, "CLIPTextModel", "CLIPTextModelWithProjection"),
        tokenizer("tokenizer", *CLIP_TOKENIZERS),
        network("unet", UNET, "UNet2DConditionModel"),
        network("vae", VAE_OR_TINY, "AutoencoderKL", "AutoencoderTiny"),
        scheduler(SCHEDULER),
    )
    engine = "sdbatch.diffusion.families.stable_diffusion:StableDiffusion"
    samplers = tuple(SAMPLERS)
    fields: Sequence[Field] = (*TEXT_FIELDS, LORA, *NET_FIELDS)
    uses = Declaration.uses | {"guidance_rescale"}
    defaults: Mapping[str, object] = {"sampler": "ddpm", "steps": 50, "guidance_scale": 7.5, "dtype": "fp16"}

    added_embeddings: tuple[str | None, ...] = (None, "text")
    latent_size = 64

    def inspect(self, index: Config, configs: Mapping[str, Config]) -> ModelInfo:
        unet, vae, own_scheduler = configs["unet"], configs["vae"], configs["scheduler"]
        tasks = self._tasks(index, unet, vae)
        self._check_unet(unet, vae)
        scale = latent_scale(vae)
        size = unet.get("sample_size") or self.latent_size
        height, width = (size, size) if isinstance(size, int) else size
        return self.model_info(
            own_scheduler,
            prediction_type=own_scheduler.get("prediction_type", "epsilon"),
            height=height * scale,
            width=width * scale,
            size_multiple=math.lcm(scale, 8),  # diffusers' pipelines insist on multiples of 8 whatever the VAE
            max_tokens=_context(configs),
            text_layers=self._text_layers(configs),
            distilled_steps=own_scheduler.get("original_inference_steps", 50),
            guidance_embedded=unet.get("time_cond_proj_dim") is not None,
            pipeline=index["_class_name"],
            tasks=tasks,
            vae_scale=scale,
            adapter_multiple=scale * unet_features(unet)[0].scale,
            approximate_vae=is_tiny(vae),
            extra_channels=unet.get("in_channels", 4) - vae.get("latent_channels", 4),
        )

    def forced_scheduler_config(self, index: Config) -> Mapping[str, object]:
        return {"steps_offset": 1} if index.get("_class_name") in OFFSET_BY_ONE else {}

    def refusal(self, request: Request, info: ModelInfo) -> str | None:
        return (
            refused_wording(request, info)
            or net_refusal(request, task_of(request).name, NET_TASKS)
            or adapter_size_refusal(request, (request.height, request.width), info)
        )

    def refused_texts(self, request: Request) -> str | None:
        return refused_prompts(request)

    def check_deep_cache(self, info: ModelInfo) -> None:
        blocks = read_config(info.folder / "unet" / "config.json").get("up_block_types") or DEEP_CACHE_BLOCKS
        refuse_deep_cache(blocks[-1])

    def _text_layers(self, configs: Mapping[str, Config]) -> int:
        """The number of layers that can be skipped at the end of every text encoder."""
        encoders = [part.name for part in self.parts if part.sort == "text_encoder"]
        return min(configs[name].get("num_hidden_layers", 12) for name in encoders) - self.unused_layers

    def _tasks(self, index: Config, unet: Config, vae: Config) -> tuple[str, ...]:
        """The checkpoint's tasks, from its pipeline and its UNet's input channels."""
        pipeline, latents = index["_class_name"], vae.get("latent_channels", 4)
        known = {latents: self.tasks[pipeline]} if pipeline in self.tasks else {}
        if pipeline in self.channels:
            beside, times, task = self.channels[pipeline]
            known[latents + beside + times * latents] = (task,)
        channels = unet.get("in_channels", 4)
        if channels not in known:
            kind = OTHER_TASKS.get(channels)
            what = f"a UNet with {channels} input channels" + (f" ({kind})" if kind else "")
            needed = " or ".join(map(str, known))
            raise ModelError(f"{unet.source}: {what} does not match {pipeline}, which needs {needed}")
        return known[channels]

    def _check_unet(self, unet: Config, vae: Config) -> None:
        where = unet.source
        out_channels = unet.get("out_channels", 4)
        if out_channels != vae.get("latent_channels", 4):
            what = f"a UNet that predicts its variance ({out_channels} output channels)"
            raise ModelError(f"{where}: {what} can't be run")
        embedding = unet.get("addition_embed_type")
        if embedding not in self.added_embeddings:
            raise ModelError(f"{where}: a UNet with addition_embed_type {embedding!r} is not supported for {self.name}")
        blocks = [*unet.get("down_block_types", ()), unet.get("mid_block_type"), *unet.get("up_block_types", ())]
        if foreign := [block for block in blocks if block and "SimpleCrossAttn" in block]:
            raise ModelError(f"{where}: a UNet of {foreign[0]} blocks is not supported")
        for key in UNSUPPORTED_IN_UNET:
            if unet.get(key) and key not in self.unet_keys:
                raise ModelError(f"{where}: a UNet with {key} {unet[key]!r} is not supported")


class StableDiffusionXLFamily(StableDiffusionFamily):
    """Stable Diffusion XL (Podell et al. 2023): two text encoders, pooled text, size conditioning."""

    name = "sdxl"
    title = "Stable Diffusion XL"
    tasks: Mapping[str, tuple[str, ...]] = {
        "StableDiffusionXLPipeline": (TEXT, IMAGE, INPAINTING),
        "StableDiffusionXLInpaintPipeline": (INPAINTING, IMAGE, TEXT),
    }
    channels: Mapping[str, tuple[int, int, str]] = {
        "StableDiffusionXLInpaintPipeline": (1, 1, INPAINTING),
        "StableDiffusionXLInstructPix2PixPipeline": (0, 1, "instruct-edit"),
    }
    pipelines = tuple(dict.fromkeys([*tasks, *channels]))
    parts: tuple[Part, ...] = (
        text_encoder("text_encoder", CLIP_TEXT, "CLIPTextModel", "CLIPTextModelWithProjection"),
        text_encoder("text_encoder_2", CLIP_TEXT, "CLIPTextModelWithProjection"),
        tokenizer("tokenizer", *CLIP_TOKENIZERS),
        tokenizer("tokenizer_2", *CLIP_TOKENIZERS),
        network("unet", UNET, "UNet2DConditionModel"),
        network("vae", VAE_OR_TINY, "AutoencoderKL", "AutoencoderTiny"),
        scheduler(SCHEDULER),
    )
    index_kinds: Mapping[str, Kind] = {"force_zeros_for_empty_prompt": boolean()}
    fields: Sequence[Field] = (*TEXT_FIELDS, *XL_FIELDS, LORA, *NET_FIELDS, ADAPTER_FACTOR)
    texts: tuple[str, ...] = ("prompt_2", "negative_prompt_2")
    unused_layers = 1
    engine = "sdbatch.diffusion.families.stable_diffusion_xl:StableDiffusionXL"
    added_embeddings = ("text_time",)
    latent_size = 128


def refuse_deep_cache(last_block: str) -> None:
    """Raise `ModelError` for a UNet whose last block is of a kind that DeepCache cannot split."""
    if last_block not in DEEP_CACHE_BLOCKS:
        raise ModelError(f"deep-cache does not work with a UNet that ends in a {last_block}")


def _context(configs: Mapping[str, Config]) -> int:
    """The smaller of the tokenizer's maximum length and the text encoder's number of positions."""
    encoder, tokens = (
        next(c for name, c in configs.items() if name.startswith(kind)) for kind in ("text", "tokenizer")
    )
    positions = encoder.get("max_position_embeddings", 77)
    declared = tokens.get("model_max_length")
    return positions if declared is None else int(min(declared, positions))
