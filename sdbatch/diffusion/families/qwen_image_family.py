"""Qwen-Image (Wu et al. 2025): checks of its folder, and facts read from it."""

from __future__ import annotations

from collections.abc import Mapping

from sdbatch.diffusion.adapters.lora_rows import LORA
from sdbatch.diffusion.checkpoints.architectures import DECODER_TEXT, FLOW_SCHEDULER
from sdbatch.diffusion.checkpoints.configs import (
    Config,
    Kind,
    boolean,
    integer,
    list_of,
    mapping,
    number,
    optional,
    text,
)
from sdbatch.diffusion.checkpoints.model_info import FLOW, ModelInfo
from sdbatch.diffusion.families.declaration import Declaration, network, scheduler, text_encoder, tokenizer
from sdbatch.diffusion.families.flow import EULER, TASKS, check_flow, not_text_to_image, shifted
from sdbatch.diffusion.request import Request
from sdbatch.errors import ModelError

__all__ = ["QwenImageFamily"]

TRANSFORMER: Mapping[str, Kind] = {
    "_class_name": text("QwenImageTransformer2DModel"),
    "patch_size": integer(2, 2),
    "in_channels": integer(4, 1024),
    "out_channels": optional(integer(1, 1024)),
    "num_layers": integer(1, 256),
    "attention_head_dim": integer(1, 1024),
    "num_attention_heads": integer(1, 1024),
    "joint_attention_dim": integer(1, 65536),
    "guidance_embeds": boolean(),
    "axes_dims_rope": list_of(integer(2, 1024), 3, 3),
    "zero_cond_t": boolean(),
    "use_additional_t_cond": boolean(),
    "use_layer3d_rope": boolean(),
}
VAE: Mapping[str, Kind] = {
    "_class_name": text("AutoencoderKLQwenImage"),
    "base_dim": integer(1, 4096),
    "z_dim": integer(1, 1024),
    "dim_mult": list_of(integer(1, 64), 1, 16),
    "num_res_blocks": integer(0, 64),
    "attn_scales": list_of(number(), 0, 16),
    "temperal_downsample": list_of(boolean(), 1, 8),
    "input_channels": integer(3, 3),
    "dropout": number(0, 1),
    "latents_mean": list_of(number(), 1, 1024),
    "latents_std": list_of(number(1e-6, 1e6), 1, 1024),
}
# Earlier releases of transformers wrote the language model's settings at the top level.
TEXT: Mapping[str, Kind] = {
    **DECODER_TEXT,
    "text_config": mapping(DECODER_TEXT),
    "vision_config": mapping(
        {name: integer(1, 1 << 17) for name in ("depth", "hidden_size", "intermediate_size", "num_heads")}
    ),
}
# `max_sequence_length` of the pipeline, without the template before each prompt.
MAX_TOKENS = 512
OWN_LATENTS = 128
REFUSED_FLAGS = ("guidance_embeds", "zero_cond_t", "use_additional_t_cond", "use_layer3d_rope")


class QwenImageFamily(Declaration):
    """Qwen 2.5-VL texts; guidance only with a negative prompt, renormalised token by token."""

    name = "qwen-image"
    title = "Qwen-Image"
    pipelines = ("QwenImagePipeline",)
    parts = (
        text_encoder("text_encoder", TEXT, "Qwen2_5_VLForConditionalGeneration"),
        tokenizer("tokenizer"),
        network("transformer", TRANSFORMER, "QwenImageTransformer2DModel"),
        network("vae", VAE, "AutoencoderKLQwenImage"),
        scheduler(FLOW_SCHEDULER),
    )
    engine = "sdbatch.diffusion.families.qwen_image:QwenImage"
    block_counts = ("num_layers",)
    releases_text_encoders = True
    # The pipeline passes its own noise levels, which the other solvers do not accept, and packs its latents.
    samplers = EULER
    fields = (LORA,)
    defaults: Mapping[str, object] = {"sampler": "flow_euler", "steps": 50, "guidance_scale": 4.0, "dtype": "bf16"}

    def inspect(self, index: Config, configs: Mapping[str, Config]) -> ModelInfo:
        transformer, vae, own_scheduler = configs["transformer"], configs["vae"], configs["scheduler"]
        check_flow(own_scheduler)
        for flag in REFUSED_FLAGS:
            if transformer.get(flag):
                raise ModelError(f"{transformer.source}: a transformer with {flag} is not supported")
        channels, latent_channels = transformer.get("in_channels", 64), vae.get("z_dim", 16)
        if channels != 4 * latent_channels or (transformer.get("out_channels") or 16) != latent_channels:
            raise not_text_to_image(transformer, channels, 4 * latent_channels)
        for key in ("latents_mean", "latents_std"):
            if len(vae.get(key, [0.0] * 16)) != latent_channels:
                raise ModelError(f"{vae.source}: {key} must have {latent_channels} numbers")
        scale = 2 ** len(vae.get("temperal_downsample", [False, True, True]))
        return self.model_info(
            own_scheduler,
            prediction_type=FLOW,
            height=OWN_LATENTS * scale,
            width=OWN_LATENTS * scale,
            size_multiple=2 * scale,
            vae_scale=2 * scale,
            tasks=TASKS,
            max_tokens=MAX_TOKENS,
        )

    def schedule(self, request: Request, info: ModelInfo, config: Mapping[str, object]) -> Mapping[str, object]:
        return shifted(request, info, config)

    def guidance(self, request: Request, info: ModelInfo) -> float:
        return super().guidance(request, info) if request.negative_prompt else 1.0
