"""FLUX.2 dev and klein (Black Forest Labs 2025, 2026): checks of their folders, and facts read from them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from sdbatch.diffusion.adapters.lora_rows import LORA
from sdbatch.diffusion.checkpoints.architectures import AUTOENCODER_KL, DECODER_TEXT, FLOW_SCHEDULER, latent_scale
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

__all__ = ["DEV_LAYERS", "KLEIN_LAYERS", "Flux2DevFamily", "Flux2KleinFamily"]

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
MISTRAL_TEXT: Mapping[str, Kind] = {
    **DECODER_TEXT,
    "text_config": mapping(DECODER_TEXT),
    "vision_config": mapping(
        {name: integer(1, 1 << 17) for name in ("hidden_size", "intermediate_size", "num_hidden_layers", "patch_size")}
    ),
    "spatial_merge_size": integer(1, 64),
}
# The layers of Qwen 3 and of Mistral Small 3 whose hidden states are used.
KLEIN_LAYERS = (9, 18, 27)
DEV_LAYERS = (10, 20, 30)
# `max_sequence_length` of the pipelines. Padding is attended to, so another length would give other pictures.
MAX_TOKENS = 512
OWN_LATENTS = 128


class Flux2Family(Declaration):
    """Texts from three layers of a language model, latents in packs of 2×2, normalised by the VAE's batch norm."""

    block_counts = ("num_layers", "num_single_layers")
    releases_text_encoders = True
    samplers = EULER + SOLVERS
    fields = (LORA,)
    defaults: Mapping[str, object] = {"sampler": "flow_euler", "steps": 50, "guidance_scale": 4.0, "dtype": "bf16"}

    def schedule(self, request: Request, info: ModelInfo, config: Mapping[str, object]) -> Mapping[str, object]:
        steps = int(request.steps)
        schedule: dict[str, object] = {"sigmas": evenly_spaced(steps)}
        if config.get("use_dynamic_shifting"):
            schedule["mu"] = empirical_mu(tokens(request, info), steps)
        return schedule

    def checked(
        self, configs: Mapping[str, Config], language_model: Mapping[str, Any], layers: Sequence[int]
    ) -> dict[str, Any]:
        """Check what both kinds of models require, and return the facts that they share.

        Args:
            language_model: the settings of the text encoder's language model.
            layers: its layers whose hidden states are used.

        Raises:
            ModelError: the parts do not belong together.
        """
        transformer, vae, encoder = configs["transformer"], configs["vae"], configs["text_encoder"]
        check_flow(configs["scheduler"])
        channels, latent_channels = transformer.get("in_channels", 128), vae.get("latent_channels", 32)
        if channels != 4 * latent_channels or (transformer.get("out_channels") or channels) != channels:
            raise not_text_to_image(transformer, channels, 4 * latent_channels)
        if language_model.get("num_hidden_layers", 32) < layers[-1]:
            raise ModelError(f"{encoder.source}: has fewer than {layers[-1]} layers")
        width = len(layers) * language_model.get("hidden_size", 4096)
        require_width(transformer, "joint_attention_dim", 15360, width, "the text encoder")
        scale = latent_scale(vae) if "block_out_channels" in vae else 8
        return {
            "prediction_type": FLOW,
            "height": OWN_LATENTS * scale,
            "width": OWN_LATENTS * scale,
            "size_multiple": 2 * scale,
            "max_tokens": MAX_TOKENS,
        }


class Flux2KleinFamily(Flux2Family):
    """Qwen 3 texts; distilled, or with classifier-free guidance."""

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
    engine = "sdbatch.diffusion.families.flux_2:Flux2Klein"
    # The pipeline's unconditional text is always empty.
    uses = GUIDED

    def inspect(self, index: Config, configs: Mapping[str, Config]) -> ModelInfo:
        if configs["transformer"].get("guidance_embeds", True):
            source = configs["transformer"].source
            raise ModelError(f"{source}: a transformer with guidance_embeds is not FLUX.2 klein")
        facts = self.checked(configs, configs["text_encoder"], KLEIN_LAYERS)
        is_distilled = index.get("is_distilled", False)
        return self.model_info(
            configs["scheduler"],
            title=self.title if is_distilled else f"{self.title} base",
            uses=UNGUIDED if is_distilled else self.uses,
            defaults={**self.defaults, "steps": 4, "guidance_scale": 1.0} if is_distilled else self.defaults,
            **facts,
        )

    def guidance(self, request: Request, info: ModelInfo) -> float:
        return super().guidance(request, info) if "guidance_scale" in info.uses else 1.0


class Flux2DevFamily(Flux2Family):
    """Mistral Small 3 texts; the guidance scale is an input of the transformer."""

    name = "flux2-dev"
    title = "FLUX.2 dev"
    pipelines = ("Flux2Pipeline",)
    parts = (
        text_encoder("text_encoder", MISTRAL_TEXT, "Mistral3ForConditionalGeneration"),
        tokenizer("tokenizer"),  # published in the folder of a processor, which also takes pictures
        network("transformer", TRANSFORMER, "Flux2Transformer2DModel"),
        network("vae", VAE, "AutoencoderKLFlux2"),
        scheduler(FLOW_SCHEDULER),
    )
    engine = "sdbatch.diffusion.families.flux_2:Flux2Dev"
    uses = UNGUIDED | {"guidance_scale"}

    def inspect(self, index: Config, configs: Mapping[str, Config]) -> ModelInfo:
        if not configs["transformer"].get("guidance_embeds", True):
            source = configs["transformer"].source
            raise ModelError(f"{source}: a transformer without guidance_embeds is not FLUX.2 dev")
        encoder = configs["text_encoder"]
        facts = self.checked(configs, encoder.get("text_config", encoder), DEV_LAYERS)
        return self.model_info(configs["scheduler"], guidance_embedded=True, **facts)

    def guidance(self, request: Request, info: ModelInfo) -> float:
        return 1.0


def empirical_mu(count: int, steps: int) -> float:
    """How far noise levels are shifted for a picture of that many tokens (`compute_empirical_mu` of diffusers)."""
    at_200 = 0.00016927 * count + 0.45666666
    if count > 4300:
        return at_200
    at_10 = 8.73809524e-05 * count + 1.89833333
    slope = (at_200 - at_10) / 190.0
    return slope * steps + (at_200 - 200.0 * slope)
