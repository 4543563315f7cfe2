"""Small random-weight checkpoints in diffusers' folder format, built in seconds with its own classes.

The weights are scaled so that the UNet's outputs have about unit variance and the VAE's pictures fill the
range of pixel values: only then does "no pixel off by more than 2 of 255" mean something.
"""

from __future__ import annotations

import json
from pathlib import Path

import torch
from diffusers import (
    AutoencoderKL,
    DDPMScheduler,
    StableDiffusionPipeline,
    StableDiffusionXLPipeline,
    UNet2DConditionModel,
)
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

CONTEXT = 24
SD_SCHEDULER = {
    "beta_schedule": "scaled_linear",
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "steps_offset": 1,
    "clip_sample": False,
}


def build_sd(
    folder: Path,
    *,
    prediction_type="epsilon",
    pipeline=StableDiffusionPipeline,
    scheduler=None,
    text=None,
    latent_channels=4,
    **unet,
) -> Path:
    """A Stable Diffusion 1.x or 2.x checkpoint; `scheduler`, `text`, `unet` override the configurations."""
    torch.manual_seed(0)
    tokenizer = _tokenizer(folder)
    checkpoint = pipeline(
        vae=_vae(latent_channels=latent_channels),
        text_encoder=CLIPTextModel(_text_config(tokenizer, **(text or {}))).eval(),
        tokenizer=tokenizer,
        unet=_unet(in_channels=latent_channels, out_channels=latent_channels, **unet),
        scheduler=DDPMScheduler(**SD_SCHEDULER | {"prediction_type": prediction_type} | (scheduler or {})),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    checkpoint.save_pretrained(folder)
    return folder


def build_sdxl(folder: Path, *, prediction_type="epsilon", force_zeros=True, **unet) -> Path:
    """A Stable Diffusion XL checkpoint: two text encoders, pooled embedding, size and crop conditioning."""
    torch.manual_seed(0)
    tokenizer = _tokenizer(folder)
    pipeline = StableDiffusionXLPipeline(
        vae=_vae(force_upcast=True, scaling_factor=0.13025),
        text_encoder=CLIPTextModel(_text_config(tokenizer)).eval(),
        text_encoder_2=CLIPTextModelWithProjection(
            _text_config(tokenizer, hidden_act="gelu", projection_dim=24)
        ).eval(),
        tokenizer=tokenizer,
        tokenizer_2=tokenizer,
        unet=_unet(
            cross_attention_dim=64,
            addition_embed_type="text_time",
            addition_time_embed_dim=8,
            projection_class_embeddings_input_dim=24 + 6 * 8,
            use_linear_projection=True,
            **unet,
        ),
        scheduler=DDPMScheduler(**SD_SCHEDULER | {"prediction_type": prediction_type}),
        force_zeros_for_empty_prompt=force_zeros,
        add_watermarker=False,
    )
    pipeline.save_pretrained(folder)
    return folder


def _unet(**overrides) -> UNet2DConditionModel:
    config = {
        "sample_size": 8,
        "block_out_channels": (32, 64),
        "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"),
        "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D"),
        "layers_per_block": 1,
        "cross_attention_dim": 32,
        "attention_head_dim": 4,
        "norm_num_groups": 8,
    }
    unet = UNet2DConditionModel(**config | overrides).eval()
    with torch.no_grad():
        # Larger gains on the prompt make SDXL chaotic: rounding would then decide about the picture.
        for name, parameter in unet.named_parameters():
            if "attn2" in name and parameter.ndim == 2:
                parameter.mul_(1.2)
        unet.conv_out.weight.mul_(4.0)
    return unet


def _vae(**overrides) -> AutoencoderKL:
    config = {
        "block_out_channels": (16, 32, 32, 32),
        "down_block_types": ("DownEncoderBlock2D",) * 4,
        "up_block_types": ("UpDecoderBlock2D",) * 4,
        "layers_per_block": 1,
        "latent_channels": 4,
        "norm_num_groups": 8,
        "sample_size": 64,
    }
    vae = AutoencoderKL(**config | overrides).eval()
    with torch.no_grad():
        vae.decoder.conv_out.weight.mul_(2.5)
    return vae


def _text_config(tokenizer: CLIPTokenizer, **overrides) -> CLIPTextConfig:
    config = {
        "vocab_size": len(tokenizer),
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "max_position_embeddings": CONTEXT,
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
        # The tiny widths need larger weights than CLIP's 0.02 for prompts to differ.
        "initializer_factor": 5.0,
    }
    return CLIPTextConfig(**config | overrides)


def _tokenizer(folder: Path) -> CLIPTokenizer:
    """CLIP's byte-level BPE with its 512 base symbols and few merges, so any Unicode text tokenises."""
    from transformers.convert_slow_tokenizer import bytes_to_unicode

    symbols = list(bytes_to_unicode().values())
    merges = [("r", "e"), ("re", "d</w>"), ("c", "a"), ("ca", "t</w>")]
    vocabulary = symbols + [symbol + "</w>" for symbol in symbols] + ["".join(pair) for pair in merges]
    vocabulary += ["<|startoftext|>", "<|endoftext|>"]
    source = folder / "tokenizer-source"
    source.mkdir(parents=True, exist_ok=True)
    (source / "vocab.json").write_text(json.dumps({token: i for i, token in enumerate(vocabulary)}))
    (source / "merges.txt").write_text("#version: 0.2\n" + "\n".join(map(" ".join, merges)) + "\n")
    return CLIPTokenizer.from_pretrained(source, model_max_length=CONTEXT)
