"""Small random-weight checkpoints of pipelines with input pictures."""

from __future__ import annotations

import math
from pathlib import Path

import checkpoints
import diffusers
import numpy as np
import torch
import transformers
from diffusers.pipelines.stable_diffusion.stable_unclip_image_normalizer import StableUnCLIPImageNormalizer
from picture_rows import photo


def calibrated(vae: diffusers.AutoencoderKL) -> diffusers.AutoencoderKL:
    """Latents of pictures have about unit variance, and a posterior is some 0.2 wide: as with a trained VAE.

    Without it a wrong draw, or none, would hardly show.
    """
    with torch.no_grad():
        pixels = torch.from_numpy(np.array(photo(64, 64, 5))).permute(2, 0, 1)[None].float() / 127.5 - 1
        gain = 1 / vae.config.scaling_factor / vae.encode(pixels).latent_dist.mean.std()
        channels = vae.config.latent_channels
        vae.quant_conv.weight[:channels] *= gain
        vae.quant_conv.bias[:channels] *= gain
        vae.quant_conv.weight[channels:] *= 0.1
        vae.quant_conv.bias[channels:] = 2 * math.log(0.2 / vae.config.scaling_factor)
    return vae


def calibrate(folder: Path) -> Path:
    """The same of a checkpoint that is there already."""
    vae = diffusers.AutoencoderKL.from_pretrained(folder / "vae").eval()
    calibrated(vae).save_pretrained(folder / "vae")
    return folder


def build_sd(folder: Path, **options) -> Path:
    return calibrate(checkpoints.build_sd(folder, **options))


def build_sdxl(folder: Path, **options) -> Path:
    return calibrate(checkpoints.build_sdxl(folder, **options))


def build_inpainting(folder: Path, prediction_type: str = "epsilon") -> Path:
    return _build(folder, diffusers.StableDiffusionInpaintPipeline, prediction_type, in_channels=9, checker=True)


def build_xl_inpainting(folder: Path) -> Path:
    parts = diffusers.StableDiffusionXLPipeline.from_pretrained(build_sdxl(folder / "base")).components
    torch.manual_seed(1)
    parts["unet"] = checkpoints._unet(**{**parts["unet"].config, "in_channels": 9})
    parts = {name: part for name, part in parts.items() if part is not None}
    diffusers.StableDiffusionXLInpaintPipeline(**parts, add_watermarker=False).save_pretrained(folder)
    return folder


def build_xl_instruct(folder: Path) -> Path:
    parts = diffusers.StableDiffusionXLPipeline.from_pretrained(build_sdxl(folder / "base")).components
    torch.manual_seed(4)
    parts["unet"] = checkpoints._unet(**{**parts["unet"].config, "in_channels": 8})
    known = diffusers.StableDiffusionXLInstructPix2PixPipeline._get_signature_types()
    parts = {name: part for name, part in parts.items() if name in known}
    diffusers.StableDiffusionXLInstructPix2PixPipeline(**parts, add_watermarker=False).save_pretrained(folder)
    return folder


def build_refiner(folder: Path) -> Path:
    parts = diffusers.StableDiffusionXLPipeline.from_pretrained(build_sdxl(folder / "base")).components
    torch.manual_seed(5)
    second = parts["text_encoder_2"].config
    ids = parts["unet"].config["addition_time_embed_dim"]
    own = {
        "cross_attention_dim": second.hidden_size,
        "projection_class_embeddings_input_dim": second.projection_dim + 5 * ids,
    }
    parts["unet"] = checkpoints._unet(**{**parts["unet"].config, **own})
    parts = {"text_encoder": None, "tokenizer": None, **{n: p for n, p in parts.items() if p is not None}}
    parts |= {"text_encoder": None, "tokenizer": None}
    options = {"add_watermarker": False, "requires_aesthetics_score": True, "force_zeros_for_empty_prompt": False}
    known = diffusers.StableDiffusionXLImg2ImgPipeline._get_signature_types()
    parts = {name: part for name, part in parts.items() if name in known}
    diffusers.StableDiffusionXLImg2ImgPipeline(**parts, **options).save_pretrained(folder)
    return folder


def build_depth(folder: Path, prediction_type: str = "epsilon") -> Path:
    torch.manual_seed(2)
    config = transformers.DPTConfig(
        image_size=64,
        patch_size=16,
        hidden_size=32,
        num_hidden_layers=4,
        num_attention_heads=4,
        intermediate_size=37,
        backbone_out_indices=[0, 1, 2, 3],
        neck_hidden_sizes=[16, 16, 32, 32],
        fusion_hidden_size=16,
        is_hybrid=False,
        initializer_range=0.1,
    )
    estimator = transformers.DPTForDepthEstimation(config).eval()
    with torch.no_grad():  # random weights would end below zero, where its last layer gives 0 everywhere
        estimator.head.head[-2].weight.mul_(3).abs_()
        estimator.head.head[-2].bias.fill_(1.0)
    parts = {
        "depth_estimator": estimator,
        "feature_extractor": transformers.DPTImageProcessorPil(size={"height": 64, "width": 64}),
    }
    return _build(folder, diffusers.StableDiffusionDepth2ImgPipeline, prediction_type, in_channels=5, parts=parts)


def build_upscaler(folder: Path, prediction_type: str = "v_prediction") -> Path:
    low = diffusers.DDPMScheduler(beta_schedule="scaled_linear", beta_start=0.0001, beta_end=0.02)
    blocks = {
        "block_out_channels": (16, 32, 32),
        "down_block_types": ("DownEncoderBlock2D",) * 3,
        "up_block_types": ("UpDecoderBlock2D",) * 3,
        "scaling_factor": 0.08333,
    }
    return _build(
        folder,
        diffusers.StableDiffusionUpscalePipeline,
        prediction_type,
        in_channels=7,
        parts={"low_res_scheduler": low, "max_noise_level": 350},
        vae=blocks,
        num_class_embeds=1000,
        sample_size=16,
    )


def build_variation(folder: Path, prediction_type: str = "v_prediction") -> Path:
    torch.manual_seed(3)
    config = transformers.CLIPVisionConfig(
        hidden_size=32,
        projection_dim=32,
        num_hidden_layers=3,
        num_attention_heads=4,
        image_size=32,
        patch_size=8,
        intermediate_size=37,
        initializer_factor=5.0,
    )
    normalizer = StableUnCLIPImageNormalizer(embedding_dim=32)
    with torch.no_grad():
        normalizer.mean.normal_()
        normalizer.std.uniform_(0.5, 1.5)
    parts = {
        "image_encoder": transformers.CLIPVisionModelWithProjection(config).eval(),
        "image_normalizer": normalizer,
        "image_noising_scheduler": diffusers.DDPMScheduler(beta_schedule="squaredcos_cap_v2"),
        "feature_extractor": transformers.CLIPImageProcessorPil(crop_size=32, size=32),
    }
    return _build(
        folder,
        diffusers.StableUnCLIPImg2ImgPipeline,
        prediction_type,
        in_channels=4,
        parts=parts,
        class_embed_type="projection",
        projection_class_embeddings_input_dim=64,
    )


def build_instruct(folder: Path, prediction_type: str = "epsilon") -> Path:
    cls = diffusers.StableDiffusionInstructPix2PixPipeline
    return _build(folder, cls, prediction_type, in_channels=8, checker=True)


def _build(folder, cls, prediction_type, *, in_channels, parts=None, vae=None, checker=False, **unet) -> Path:
    torch.manual_seed(0)
    tokenizer = checkpoints._tokenizer(folder)
    if checker:
        parts = {"safety_checker": None, "feature_extractor": None, "requires_safety_checker": False}
    cls(
        vae=calibrated(checkpoints._vae(**(vae or {}))),
        text_encoder=transformers.CLIPTextModel(checkpoints._text_config(tokenizer)).eval(),
        tokenizer=tokenizer,
        unet=checkpoints._unet(in_channels=in_channels, out_channels=4, **unet),
        scheduler=diffusers.DDPMScheduler(**checkpoints.SD_SCHEDULER | {"prediction_type": prediction_type}),
        **(parts or {}),
    ).save_pretrained(folder)
    return folder
