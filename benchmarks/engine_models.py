"""Models for benchmarks: the packaged one, or an *architecture* with random weights.

Speed does not depend on the values of weights, and random ones need no download. They are created once and kept.
"""

from __future__ import annotations

import json
import tempfile
from pathlib import Path

import torch
from diffusers import (
    AutoencoderKL,
    DDIMScheduler,
    UNet2DConditionModel,
)
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

from sdbatch.diffusion.models.inspection import TINY

__all__ = ["ARCHITECTURES", "UNETS", "model_folder"]

VAE = {
    "block_out_channels": (128, 256, 512, 512),
    "down_block_types": ("DownEncoderBlock2D",) * 4,
    "up_block_types": ("UpDecoderBlock2D",) * 4,
    "layers_per_block": 2,
    "latent_channels": 4,
    "norm_num_groups": 32,
}
CROSS = ("CrossAttnDownBlock2D",) * 3 + ("DownBlock2D",)
SD_UNET = {
    "sample_size": 64,
    "block_out_channels": (320, 640, 1280, 1280),
    "down_block_types": CROSS,
    "up_block_types": ("UpBlock2D",) + ("CrossAttnUpBlock2D",) * 3,
}
UNETS = {
    "sd15": SD_UNET | {"cross_attention_dim": 768, "attention_head_dim": 8},
    "sd21": SD_UNET
    | {
        "sample_size": 96,
        "cross_attention_dim": 1024,
        "attention_head_dim": (5, 10, 20, 20),
        "use_linear_projection": True,
    },
    "sdxl": {
        "sample_size": 128,
        "block_out_channels": (320, 640, 1280),
        "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        "transformer_layers_per_block": (1, 2, 10),
        "attention_head_dim": (5, 10, 20),
        "cross_attention_dim": 2048,
        "use_linear_projection": True,
        "addition_embed_type": "text_time",
        "addition_time_embed_dim": 256,
        "projection_class_embeddings_input_dim": 2816,
    },
}
# Width, layers, heads of the text encoders: CLIP ViT-L, OpenCLIP ViT-H cut before its last layer, ViT-bigG.
TEXT = {"large": (768, 12, 12), "huge": (1024, 23, 16), "bigg": (1280, 32, 20)}
ARCHITECTURES = tuple(UNETS)


def model_folder(name: str) -> Path:
    """Folder of "tiny", or of an architecture with random weights: "sd15", "sd21", "sdxl", "klein" (16 GB of files) or
    "klein-small"; a folder is returned unchanged."""
    if name == "tiny":
        return TINY
    if name not in (*UNETS, "klein", "klein-small"):
        return Path(name)
    folder = Path(tempfile.gettempdir()) / "sdbatch-benchmarks" / name
    if not (folder / "model_index.json").exists():
        print(f"making {name} with random weights in {folder}", flush=True)
        _build(name).save_pretrained(folder)
    return folder


def _build(name: str):
    # Here, because importing diffusers' pipelines prints that transformers has some classes for torchvision only.
    from diffusers import StableDiffusionPipeline, StableDiffusionXLPipeline

    torch.manual_seed(0)
    if name not in UNETS:
        import klein_model

        return klein_model.build(small=name == "klein-small")
    tokenizer = _tokenizer()
    scheduler = DDIMScheduler(
        beta_schedule="scaled_linear",
        beta_start=0.00085,
        beta_end=0.012,
        steps_offset=1,
        clip_sample=False,
        prediction_type="v_prediction" if name == "sd21" else "epsilon",
    )
    unet = UNet2DConditionModel(**UNETS[name])
    if name == "sdxl":
        return StableDiffusionXLPipeline(
            vae=AutoencoderKL(**VAE, sample_size=1024, scaling_factor=0.13025, force_upcast=True),
            text_encoder=CLIPTextModel(_text("large")),
            text_encoder_2=CLIPTextModelWithProjection(_text("bigg", projection_dim=1280)),
            tokenizer=tokenizer,
            tokenizer_2=tokenizer,
            unet=unet,
            scheduler=scheduler,
            add_watermarker=False,
        )
    return StableDiffusionPipeline(
        vae=AutoencoderKL(**VAE, sample_size=512),
        text_encoder=CLIPTextModel(_text("huge" if name == "sd21" else "large")),
        tokenizer=tokenizer,
        unet=unet,
        scheduler=scheduler,
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )


def _text(size: str, **overrides) -> CLIPTextConfig:
    width, layers, heads = TEXT[size]
    return CLIPTextConfig(
        vocab_size=49408,
        hidden_size=width,
        intermediate_size=4 * width,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        **overrides,
    )


def _tokenizer() -> CLIPTokenizer:
    """CLIP's byte-level base vocabulary without merges; prompts get longer, but are always padded to 77 tokens."""
    from transformers.convert_slow_tokenizer import bytes_to_unicode

    symbols = list(bytes_to_unicode().values())
    vocabulary = [*symbols, *(symbol + "</w>" for symbol in symbols), "<|startoftext|>", "<|endoftext|>"]
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "vocab.json").write_text(json.dumps({token: i for i, token in enumerate(vocabulary)}))
        Path(folder, "merges.txt").write_text("#version: 0.2\n")
        return CLIPTokenizer.from_pretrained(folder, model_max_length=77)
