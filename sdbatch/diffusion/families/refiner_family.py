"""The refiner of Stable Diffusion XL: checks of its folder, and the aesthetic scores of its rows."""

from __future__ import annotations

from collections.abc import Mapping

from sdbatch.bounds import Number
from sdbatch.diffusion.checkpoints.architectures import CLIP_TEXT, SCHEDULER, UNET, VAE_OR_TINY
from sdbatch.diffusion.checkpoints.configs import Config, Kind, boolean
from sdbatch.diffusion.checkpoints.model_info import ModelInfo
from sdbatch.diffusion.families.declaration import network, scheduler, text_encoder, tokenizer
from sdbatch.diffusion.families.stable_diffusion_family import CLIP_TOKENIZERS, IMAGE, StableDiffusionXLFamily
from sdbatch.diffusion.families.text_fields import TEXT_FIELDS
from sdbatch.errors import ModelError
from sdbatch.fields import Field

__all__ = ["SCORES", "RefinerFamily"]

GROUP = "pictures as input"
# Aesthetic scores of the conditional lane, and of the unconditional one.
SCORES = (
    Field(
        name="aesthetic_score",
        kind=Number(-1_000, 1_000),
        default=6.0,
        help="SDXL refiner: aesthetic score of the picture to generate, from 1 to 10",
        group=GROUP,
        metavar="F",
        before=None,
    ),
    Field(
        name="negative_aesthetic_score",
        kind=Number(-1_000, 1_000),
        default=2.5,
        help="SDXL refiner: aesthetic score that guidance steers away from",
        group=GROUP,
        metavar="F",
        before=None,
    ),
)


class RefinerFamily(StableDiffusionXLFamily):
    """The refiner of Stable Diffusion XL, which continues from pictures of the base model."""

    name = "sdxl-refiner"
    title = "the Stable Diffusion XL refiner"
    tasks: Mapping[str, tuple[str, ...]] = {"StableDiffusionXLImg2ImgPipeline": (IMAGE,)}
    channels: Mapping[str, tuple[int, int, str]] = {}
    pipelines = tuple(tasks)
    parts = (
        text_encoder("text_encoder_2", CLIP_TEXT, "CLIPTextModelWithProjection"),
        tokenizer("tokenizer_2", *CLIP_TOKENIZERS),
        network("unet", UNET, "UNet2DConditionModel"),
        network("vae", VAE_OR_TINY, "AutoencoderKL", "AutoencoderTiny"),
        scheduler(SCHEDULER),
    )
    index_kinds: Mapping[str, Kind] = {**StableDiffusionXLFamily.index_kinds, "requires_aesthetics_score": boolean()}
    engine = "sdbatch.diffusion.families.stable_diffusion_xl_refiner:StableDiffusionXLRefiner"
    fields = (*TEXT_FIELDS, *SCORES)
    texts = ()

    def inspect(self, index: Config, configs: Mapping[str, Config]) -> ModelInfo:
        if not index.get("requires_aesthetics_score", False):
            raise ModelError(
                f"{index.source}: sdbatch runs StableDiffusionXLImg2ImgPipeline as the SDXL refiner, but this model "
                "takes no aesthetic score; a base model runs as StableDiffusionXLPipeline, with --task image-to-image"
            )
        return super().inspect(index, configs)
