"""Stable Diffusion 3 and 3.5 (Esser et al. 2024): checks of their folders, and facts read from them."""

from __future__ import annotations

from collections.abc import Mapping

from sdbatch.diffusion.adapters.lora_rows import LORA
from sdbatch.diffusion.checkpoints.architectures import AUTOENCODER_KL, CLIP_TEXT, FLOW_SCHEDULER, T5_TEXT, latent_scale
from sdbatch.diffusion.checkpoints.configs import Config, Kind, integer, one_or_list, optional, text
from sdbatch.diffusion.checkpoints.model_info import FLOW, ModelInfo
from sdbatch.diffusion.families.declaration import Declaration, network, scheduler, text_encoder, tokenizer
from sdbatch.diffusion.families.flow import (
    EULER,
    NOISY,
    SOLVERS,
    TASKS,
    check_flow,
    not_text_to_image,
    shift_by_tokens,
    tokens,
)
from sdbatch.diffusion.request import Request

__all__ = ["StableDiffusion3Family"]

TRANSFORMER: Mapping[str, Kind] = {
    "_class_name": text("SD3Transformer2DModel"),
    "sample_size": integer(2, 1024),
    "patch_size": integer(1, 16),
    "in_channels": integer(1, 1024),
    "out_channels": optional(integer(1, 1024)),
    "num_layers": integer(1, 256),
    "attention_head_dim": integer(1, 1024),
    "num_attention_heads": integer(1, 1024),
    "joint_attention_dim": integer(1, 65536),
    "caption_projection_dim": integer(1, 65536),
    "pooled_projection_dim": integer(1, 65536),
    "pos_embed_max_size": integer(1, 4096),
    "dual_attention_layers": one_or_list(integer(0, 256), 0, 256),
    "qk_norm": optional(text()),
}
# `max_sequence_length` of the pipeline, for T5. Padding is attended to, so another length would give other pictures.
MAX_TOKENS = 256


class StableDiffusion3Family(Declaration):
    """Two CLIP encoders and T5 in one sequence, whose padding is attended to."""

    name = "sd3"
    title = "Stable Diffusion 3 and 3.5"
    pipelines = ("StableDiffusion3Pipeline",)
    parts = (
        text_encoder("text_encoder", CLIP_TEXT, "CLIPTextModelWithProjection"),
        text_encoder("text_encoder_2", CLIP_TEXT, "CLIPTextModelWithProjection"),
        text_encoder("text_encoder_3", T5_TEXT, "T5EncoderModel"),
        tokenizer("tokenizer"),
        tokenizer("tokenizer_2"),
        tokenizer("tokenizer_3"),
        network("transformer", TRANSFORMER, "SD3Transformer2DModel"),
        network("vae", AUTOENCODER_KL, "AutoencoderKL"),
        scheduler(FLOW_SCHEDULER),
    )
    engine = "sdbatch.diffusion.families.stable_diffusion_3:StableDiffusion3"
    block_counts = ("num_layers",)
    releases_text_encoders = True
    fields = (LORA,)
    samplers = (*EULER, *NOISY, "flow_heun", *SOLVERS)
    defaults: Mapping[str, object] = {"sampler": "flow_euler", "steps": 28, "guidance_scale": 7.0, "dtype": "bf16"}

    def inspect(self, index: Config, configs: Mapping[str, Config]) -> ModelInfo:
        transformer, vae, own_scheduler = configs["transformer"], configs["vae"], configs["scheduler"]
        check_flow(own_scheduler)
        channels, latent_channels = transformer.get("in_channels", 16), vae.get("latent_channels", 4)
        if channels != latent_channels or transformer.get("out_channels", 16) != channels:
            raise not_text_to_image(transformer, channels, latent_channels)
        size = transformer.get("sample_size", 128) * latent_scale(vae)
        patch = latent_scale(vae) * transformer.get("patch_size", 2)
        shifts = own_scheduler.get("use_dynamic_shifting", False)
        return self.model_info(
            own_scheduler,
            prediction_type=FLOW,
            height=size,
            width=size,
            size_multiple=patch,
            vae_scale=patch,
            tasks=TASKS,
            max_side=patch * transformer.get("pos_embed_max_size", 96),
            max_tokens=MAX_TOKENS,
            # Heun's scheduler has no shift by the picture's size.
            samplers=tuple(name for name in self.samplers if not (shifts and name == "flow_heun")),
        )

    def schedule(self, request: Request, info: ModelInfo, config: Mapping[str, object]) -> Mapping[str, object]:
        # The pipeline's own maximum, if the configuration has none.
        return shift_by_tokens(tokens(request, info), {"max_shift": 1.16, **config})
