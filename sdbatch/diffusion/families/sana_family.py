"""Sana (Xie et al. 2024): checks of its folder, and facts read from it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from sdbatch.diffusion.checkpoints.architectures import DECODER_TEXT, FLOW_SCHEDULER
from sdbatch.diffusion.checkpoints.configs import (
    Config,
    Kind,
    boolean,
    integer,
    list_of,
    number,
    one_or_list,
    optional,
    text,
)
from sdbatch.diffusion.checkpoints.model_info import FLOW, ModelInfo
from sdbatch.diffusion.families.declaration import Declaration, Part, network, scheduler, text_encoder, tokenizer
from sdbatch.diffusion.families.flow import EULER, NOISY, SOLVERS, check_flow, require_latents, require_width
from sdbatch.errors import ModelError

__all__ = ["SanaFamily", "sana_parts"]

TRANSFORMER: Mapping[str, Kind] = {
    "_class_name": text("SanaTransformer2DModel"),
    "in_channels": integer(1, 1024),
    "out_channels": optional(integer(1, 1024)),
    "num_attention_heads": integer(1, 1024),
    "attention_head_dim": integer(1, 1024),
    "num_layers": integer(1, 256),
    "num_cross_attention_heads": optional(integer(1, 1024)),
    "cross_attention_head_dim": optional(integer(1, 1024)),
    "cross_attention_dim": optional(integer(1, 65536)),
    "caption_channels": integer(1, 65536),
    "mlp_ratio": number(0.01, 100),
    "dropout": number(0, 1),
    "attention_bias": boolean(),
    "sample_size": integer(1, 1024),
    "patch_size": integer(1, 16),
    "norm_elementwise_affine": boolean(),
    "norm_eps": number(0, 1),
    "interpolation_scale": optional(number(0.01, 100)),
    "guidance_embeds": boolean(),
    "guidance_embeds_scale": number(),
    "qk_norm": optional(text()),
    "timestep_scale": number(1e-6, 1e6),
}
VAE: Mapping[str, Kind] = {
    "_class_name": text("AutoencoderDC"),
    "in_channels": integer(3, 3),
    "latent_channels": integer(1, 1024),
    "attention_head_dim": integer(1, 1024),
    "encoder_block_types": one_or_list(text(), 1, 16),
    "decoder_block_types": one_or_list(text(), 1, 16),
    "encoder_block_out_channels": list_of(integer(1, 16384), 1, 16),
    "decoder_block_out_channels": list_of(integer(1, 16384), 1, 16),
    "encoder_layers_per_block": list_of(integer(0, 64), 1, 16),
    "decoder_layers_per_block": list_of(integer(0, 64), 1, 16),
    "downsample_block_type": text(),
    "upsample_block_type": text(),
    "scaling_factor": number(1e-6, 1e6),
}
# `max_sequence_length` of the pipeline.
MAX_TOKENS = 300
BLOCKS = 6


def sana_parts(scheduler_kinds: Mapping[str, Kind]) -> tuple[Part, ...]:
    return (
        text_encoder("text_encoder", DECODER_TEXT, "Gemma2Model", "Gemma2ForCausalLM"),
        tokenizer("tokenizer"),
        network("transformer", TRANSFORMER, "SanaTransformer2DModel"),
        network("vae", VAE, "AutoencoderDC"),
        scheduler(scheduler_kinds),
    )


class SanaFamily(Declaration):
    """Masked Gemma 2 texts, the prompt after instructions to enhance it; 32 pixels per latent."""

    name = "sana"
    title = "Sana"
    pipelines = ("SanaPipeline",)
    parts = sana_parts(FLOW_SCHEDULER)
    engine = "sdbatch.diffusion.families.sana:Sana"
    block_counts = ("num_layers",)
    releases_text_encoders = True
    samplers: tuple[str, ...] = (*EULER, *NOISY, "flow_heun", *SOLVERS)
    defaults: Mapping[str, object] = {"sampler": "flow_dpmpp_2m", "steps": 20, "guidance_scale": 4.5, "dtype": "bf16"}

    def inspect(self, index: Config, configs: Mapping[str, Config]) -> ModelInfo:
        transformer, own_scheduler = configs["transformer"], configs["scheduler"]
        check_flow(own_scheduler)
        if own_scheduler.get("use_dynamic_shifting"):
            raise ModelError(f"{own_scheduler.source}: its pipeline has no shift by the picture's size")
        if transformer.get("guidance_embeds"):
            raise ModelError(f"{transformer.source}: a transformer with guidance_embeds is Sana-Sprint's")
        return self.sana_info(configs, prediction_type=FLOW)

    def sana_info(self, configs: Mapping[str, Config], **facts: Any) -> ModelInfo:
        """The facts that follow from transformer, text encoder and autoencoder, and these."""
        transformer, vae = configs["transformer"], configs["vae"]
        channels, latent_channels = transformer.get("in_channels", 32), vae.get("latent_channels", 32)
        given = transformer.get("out_channels", 32) or channels
        require_latents(transformer, channels, latent_channels, given)
        width = configs["text_encoder"].get("hidden_size", 2304)
        require_width(transformer, "caption_channels", 2304, width, "the text encoder")
        scale = 2 ** (len(vae.get("encoder_block_out_channels", "1" * BLOCKS)) - 1)
        size = transformer.get("sample_size", 32) * scale
        return self.model_info(
            configs["scheduler"],
            height=size,
            width=size,
            # The pipeline requires multiples of 32 for any autoencoder.
            size_multiple=math.lcm(32, scale * transformer.get("patch_size", 1)),
            max_tokens=MAX_TOKENS,
            **facts,
        )
