"""FLUX.2 klein, distilled and base (Black Forest Labs 2026): checks of their folders, and facts read from them."""

from __future__ import annotations

from collections.abc import Mapping

from sdbatch.diffusion.adapters.lora_rows import LORA
from sdbatch.diffusion.checkpoints.architectures import AUTOENCODER_KL, DECODER_TEXT, FLOW_SCHEDULER, latent_scale
from sdbatch.diffusion.checkpoints.configs import Config, Kind, boolean, integer, list_of, number, optional, text
from sdbatch.diffusion.checkpoints.model_info import FLOW, ModelInfo
from sdbatch.diffusion.families.declaration import (
    GUIDED,
    UNGUIDED,
    Declaration,
    network,
    scheduler,
    text_encoder,
    tokenizer,
)
from sdbatch.diffusion.families.flow import (
    EULER,
    SOLVERS,
    check_flow,
    evenly_spaced,
    not_text_to_image,
    require_width,
    tokens,
)
from sdbatch.diffusion.request import Request
from sdbatch.errors import ModelError

__all__ = ["LAYERS", "Flux2KleinFamily"]

TRANSFORMER: Mapping[str, Kind] = {
    "_class_name": text("Flux2Transformer2DModel"),
    "patch_size": integer(1, 1),
    "in_channels": integer(4, 4096),
    "out_channels": optional(integer(4, 4096)),
    "num_layers": integer(0, 256),
    "num_single_layers": integer(0, 256),
    "attention_head_dim": integer(1, 1024),
    "num_attention_heads": integer(1, 1024),
    "joint_attention_dim": integer(1, 65536),
    "timestep_guidance_channels": integer(2, 65536),
    "mlp_ratio": number(0.01, 100),
    "axes_dims_rope": list_of(integer(2, 1024), 4, 4),
    "rope_theta": number(1, 1e9),
    "eps": number(0, 1),
    "guidance_embeds": boolean(),
}
VAE: Mapping[str, Kind] = {
    **AUTOENCODER_KL,
    "_class_name": text("AutoencoderKLFlux2"),
    "batch_norm_eps": number(0, 1),
    "patch_size": list_of(integer(2, 2), 2, 2),
}
# The layers of Qwen 3 whose hidden states are used.
LAYERS = (9, 18, 27)
# `max_sequence_length` of the pipeline. Padding is attended to, so another length would give other pictures.
MAX_TOKENS = 512
OWN_LATENTS = 128


class Flux2KleinFamily(Declaration):
    """Qwen 3 texts from three layers, latents in packs of 2×2, normalised by the autoencoder's batch norm."""

    name = "flux2-klein"
    title = "FLUX.2 klein"
    pipelines = ("Flux2KleinPipeline",)
    parts = (
        text_encoder("text_encoder", DECODER_TEXT, "Qwen3ForCausalLM", "Qwen3Model"),
        tokenizer("tokenizer"),
        network("transformer", TRANSFORMER, "Flux2Transformer2DModel"),
        network("vae", VAE, "AutoencoderKLFlux2"),
        scheduler(FLOW_SCHEDULER),
    )
    index_kinds: Mapping[str, Kind] = {"is_distilled": boolean()}
    engine = "sdbatch.diffusion.families.flux_2_klein:Flux2Klein"
    block_counts = ("num_layers", "num_single_layers")
    releases_text_encoders = True
    samplers = EULER + SOLVERS
    fields = (LORA,)
    defaults: Mapping[str, object] = {"sampler": "flow_euler", "steps": 50, "guidance_scale": 4.0, "dtype": "bf16"}
    # The pipeline's unconditional text is always empty.
    uses = GUIDED

    def inspect(self, index: Config, configs: Mapping[str, Config]) -> ModelInfo:
        transformer, vae, own_scheduler = configs["transformer"], configs["vae"], configs["scheduler"]
        check_flow(own_scheduler)
        channels, latent_channels = transformer.get("in_channels", 128), vae.get("latent_channels", 32)
        if channels != 4 * latent_channels or (transformer.get("out_channels") or channels) != channels:
            raise not_text_to_image(transformer, channels, 4 * latent_channels)
        if transformer.get("guidance_embeds", True):
            raise ModelError(f"{transformer.source}: a transformer with guidance_embeds is not FLUX.2 klein")
        encoder = configs["text_encoder"]
        if encoder.get("num_hidden_layers", 32) < LAYERS[-1]:
            raise ModelError(f"{encoder.source}: has fewer than {LAYERS[-1]} layers")
        width = len(LAYERS) * encoder.get("hidden_size", 4096)
        require_width(transformer, "joint_attention_dim", 15360, width, "the text encoder")
        is_distilled = index.get("is_distilled", False)
        scale = latent_scale(vae) if "block_out_channels" in vae else 8
        return self.model_info(
            own_scheduler,
            title=self.title if is_distilled else f"{self.title} base",
            prediction_type=FLOW,
            height=OWN_LATENTS * scale,
            width=OWN_LATENTS * scale,
            size_multiple=2 * scale,
            max_tokens=MAX_TOKENS,
            uses=UNGUIDED if is_distilled else self.uses,
            defaults={**self.defaults, "steps": 4, "guidance_scale": 1.0} if is_distilled else self.defaults,
        )

    def schedule(self, request: Request, info: ModelInfo, config: Mapping[str, object]) -> Mapping[str, object]:
        steps = int(request.steps)
        schedule: dict[str, object] = {"sigmas": evenly_spaced(steps)}
        if config.get("use_dynamic_shifting"):
            schedule["mu"] = empirical_mu(tokens(request, info), steps)
        return schedule

    def guidance(self, request: Request, info: ModelInfo) -> float:
        return super().guidance(request, info) if "guidance_scale" in info.uses else 1.0


def empirical_mu(count: int, steps: int) -> float:
    """How far noise levels are shifted for a picture of that many tokens (`compute_empirical_mu` of diffusers)."""
    at_200 = 0.00016927 * count + 0.45666666
    if count > 4300:
        return at_200
    at_10 = 8.73809524e-05 * count + 1.89833333
    slope = (at_200 - at_10) / 190.0
    return slope * steps + (at_200 - 200.0 * slope)
