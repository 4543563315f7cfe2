"""Checkpoints of Stable Diffusion 2 with additional components for input pictures."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

from sdbatch.diffusion.checkpoints.architectures import NORMALIZER, PROCESSOR, SCHEDULER, VISION
from sdbatch.diffusion.checkpoints.configs import Config, Kind, integer
from sdbatch.diffusion.checkpoints.model_info import ModelInfo
from sdbatch.diffusion.families.declaration import network, noising_scheduler, picture_encoder, processor
from sdbatch.diffusion.families.stable_diffusion_family import StableDiffusionFamily
from sdbatch.diffusion.families.text_fields import TEXT_FIELDS

__all__ = ["DepthFamily", "UpscalerFamily", "VariationFamily"]


class DepthFamily(StableDiffusionFamily):
    """Depth to image: DPT (Ranftl et al. 2021) estimates the depth of the input picture."""

    name = "sd-depth"
    fields = TEXT_FIELDS
    title = "Stable Diffusion 2 with depth"
    tasks: Mapping[str, tuple[str, ...]] = {}
    channels: Mapping[str, tuple[int, int, str]] = {"StableDiffusionDepth2ImgPipeline": (1, 0, "depth-to-image")}
    pipelines = tuple(channels)
    parts = (
        *StableDiffusionFamily.parts,
        picture_encoder("depth_estimator", VISION, "DPTForDepthEstimation"),
        processor("feature_extractor", PROCESSOR, "DPTFeatureExtractor", "DPTImageProcessor", "DPTImageProcessorPil"),
    )


class UpscalerFamily(StableDiffusionFamily):
    """The upscaler: a noised picture is concatenated to the latents of one four times as large."""

    name = "sd-upscaler"
    fields = TEXT_FIELDS
    title = "the Stable Diffusion upscaler"
    tasks: Mapping[str, tuple[str, ...]] = {}
    channels: Mapping[str, tuple[int, int, str]] = {"StableDiffusionUpscalePipeline": (3, 0, "upscaling")}
    pipelines = tuple(channels)
    parts = (*StableDiffusionFamily.parts, noising_scheduler("low_res_scheduler", SCHEDULER))
    index_kinds: Mapping[str, Kind] = {"max_noise_level": integer(0, 100_000)}
    defaults: Mapping[str, object] = {**StableDiffusionFamily.defaults, "steps": 75, "guidance_scale": 9.0}
    unet_keys = ("num_class_embeds",)

    def inspect(self, index: Config, configs: Mapping[str, Config]) -> ModelInfo:
        last_timestep = configs["low_res_scheduler"].get("num_train_timesteps", 1000) - 1
        info = super().inspect(index, configs)
        return dataclasses.replace(info, max_noise_level=min(index.get("max_noise_level", 350), last_timestep))


class VariationFamily(StableDiffusionFamily):
    """unCLIP: generates variations of a picture from its CLIP embedding."""

    name = "sd-variation"
    fields = TEXT_FIELDS
    title = "Stable Diffusion 2.1 unCLIP"
    tasks: Mapping[str, tuple[str, ...]] = {"StableUnCLIPImg2ImgPipeline": ("image-variation",)}
    channels: Mapping[str, tuple[int, int, str]] = {}
    pipelines = tuple(tasks)
    parts = (
        *StableDiffusionFamily.parts,
        processor(
            "feature_extractor", PROCESSOR, "CLIPFeatureExtractor", "CLIPImageProcessor", "CLIPImageProcessorPil"
        ),
        picture_encoder("image_encoder", VISION, "CLIPVisionModelWithProjection"),
        network("image_normalizer", NORMALIZER, "StableUnCLIPImageNormalizer"),
        noising_scheduler("image_noising_scheduler", SCHEDULER),
    )
    defaults: Mapping[str, object] = {**StableDiffusionFamily.defaults, "steps": 20, "guidance_scale": 10.0}
    unet_keys = ("class_embed_type",)

    def inspect(self, index: Config, configs: Mapping[str, Config]) -> ModelInfo:
        last_timestep = configs["image_noising_scheduler"].get("num_train_timesteps", 1000) - 1
        return dataclasses.replace(super().inspect(index, configs), max_noise_level=last_timestep)
