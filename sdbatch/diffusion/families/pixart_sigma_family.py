"""PixArt-Σ (Chen et al. 2024): checks of its folder, and facts read from it."""

from __future__ import annotations

from collections.abc import Mapping

from sdbatch.diffusion.checkpoints.architectures import AUTOENCODER_KL, SCHEDULER, T5_TEXT, latent_scale
from sdbatch.diffusion.checkpoints.configs import Config, Kind, boolean, integer, number, optional, text
from sdbatch.diffusion.checkpoints.model_info import ModelInfo
from sdbatch.diffusion.families.declaration import Declaration, network, scheduler, text_encoder, tokenizer
from sdbatch.diffusion.families.flow import require_latents, require_width
from sdbatch.diffusion.samplers.catalogue import SAMPLERS
from sdbatch.errors import ModelError

__all__ = ["PixArtSigmaFamily"]

TRANSFORMER: Mapping[str, Kind] = {
    "_class_name": text("PixArtTransformer2DModel"),
    "num_attention_heads": integer(1, 1024),
    "attention_head_dim": integer(1, 1024),
    "in_channels": integer(1, 1024),
    "out_channels": optional(integer(1, 1024)),
    "num_layers": integer(1, 256),
    "dropout": number(0, 1),
    "norm_num_groups": integer(1, 1024),
    "cross_attention_dim": optional(integer(1, 65536)),
    "attention_bias": boolean(),
    "sample_size": integer(1, 1024),
    "patch_size": integer(1, 16),
    "activation_fn": text(),
    "num_embeds_ada_norm": optional(integer(1, 100_000)),
    "upcast_attention": boolean(),
    "norm_type": text("ada_norm_single"),
    "norm_elementwise_affine": boolean(),
    "norm_eps": number(0, 1),
    "interpolation_scale": optional(number(0.01, 100)),
    "use_additional_conditions": optional(boolean()),
    "caption_channels": optional(integer(1, 65536)),
    "attention_type": optional(text()),
}
# `max_sequence_length` of the pipeline.
MAX_TOKENS = 300


class PixArtSigmaFamily(Declaration):
    """Masked T5 texts in lower case; noise prediction with the samplers of Stable Diffusion."""

    name = "pixart-sigma"
    title = "PixArt-Σ"
    pipelines = ("PixArtSigmaPipeline",)
    parts = (
        text_encoder("text_encoder", T5_TEXT, "T5EncoderModel"),
        tokenizer("tokenizer"),
        network("transformer", TRANSFORMER, "PixArtTransformer2DModel"),
        network("vae", AUTOENCODER_KL, "AutoencoderKL"),
        scheduler(SCHEDULER),
    )
    engine = "sdbatch.diffusion.families.pixart_sigma:PixArtSigma"
    block_counts = ("num_layers",)
    releases_text_encoders = True
    samplers = tuple(SAMPLERS)
    defaults: Mapping[str, object] = {"sampler": "dpmpp_2m", "steps": 20, "guidance_scale": 4.5, "dtype": "bf16"}

    def inspect(self, index: Config, configs: Mapping[str, Config]) -> ModelInfo:
        transformer, vae, own_scheduler = configs["transformer"], configs["vae"], configs["scheduler"]
        channels, latent_channels = transformer.get("in_channels", 4), vae.get("latent_channels", 4)
        given = transformer.get("out_channels", 8) or channels
        require_latents(transformer, channels, latent_channels, given)
        size = transformer.get("sample_size", 128)
        adds = transformer.get("use_additional_conditions")
        if adds or (adds is None and size == 128):
            raise ModelError(f"{transformer.source}: a transformer with use_additional_conditions is PixArt-α, not Σ")
        width = configs["text_encoder"].get("d_model", 512)
        require_width(transformer, "caption_channels", 0, width, "the text encoder")
        scale = latent_scale(vae)
        return self.model_info(
            own_scheduler,
            prediction_type=own_scheduler.get("prediction_type", "epsilon"),
            height=size * scale,
            width=size * scale,
            size_multiple=max(8, scale * transformer.get("patch_size", 2)),
            max_tokens=MAX_TOKENS,
            distilled_steps=own_scheduler.get("original_inference_steps", 50),
        )
