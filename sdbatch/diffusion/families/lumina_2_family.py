"""Lumina Image 2.0 (Qin et al. 2025): checks of its folder, and facts read from it."""

from __future__ import annotations

from collections.abc import Mapping

from sdbatch.diffusion.checkpoints.architectures import AUTOENCODER_KL, DECODER_TEXT, FLOW_SCHEDULER, latent_scale
from sdbatch.diffusion.checkpoints.configs import Config, Kind, integer, list_of, number, optional, text
from sdbatch.diffusion.checkpoints.model_info import FLOW, ModelInfo
from sdbatch.diffusion.families.declaration import Declaration, network, scheduler, text_encoder, tokenizer
from sdbatch.diffusion.families.flow import EULER, NOISY, check_flow, evenly_spaced, not_text_to_image, require_width
from sdbatch.diffusion.families.z_image_family import CFG_NORMALIZATION
from sdbatch.diffusion.request import Request
from sdbatch.errors import ModelError

__all__ = ["Lumina2Family"]

TRANSFORMER: Mapping[str, Kind] = {
    "_class_name": text("Lumina2Transformer2DModel"),
    "sample_size": integer(1, 4096),
    "patch_size": integer(2, 2),
    "in_channels": integer(1, 1024),
    "out_channels": optional(integer(1, 1024)),
    "hidden_size": integer(1, 16384),
    "num_layers": integer(1, 256),
    "num_refiner_layers": integer(0, 64),
    "num_attention_heads": integer(1, 1024),
    "num_kv_heads": integer(1, 1024),
    "multiple_of": integer(1, 65536),
    "ffn_dim_multiplier": optional(number(1e-3, 1e3)),
    "norm_eps": number(0, 1),
    "scaling_factor": number(),
    "axes_dim_rope": list_of(integer(2, 1024), 3, 3),
    "axes_lens": list_of(integer(1, 1 << 16), 3, 3),
    "cap_feat_dim": integer(1, 65536),
}
# `max_sequence_length` of the pipeline.
MAX_TOKENS = 256


class Lumina2Family(Declaration):
    """Gemma 2 texts of varying length in one sequence with the picture; a prompt follows a sentence of instruction."""

    name = "lumina2"
    title = "Lumina 2"
    pipelines = ("Lumina2Pipeline",)
    parts = (
        text_encoder("text_encoder", DECODER_TEXT, "Gemma2Model", "Gemma2ForCausalLM"),
        tokenizer("tokenizer"),
        network("transformer", TRANSFORMER, "Lumina2Transformer2DModel"),
        network("vae", AUTOENCODER_KL, "AutoencoderKL"),
        scheduler(FLOW_SCHEDULER),
    )
    engine = "sdbatch.diffusion.families.lumina_2:Lumina2"
    block_counts = ("num_layers",)
    releases_text_encoders = True
    # The pipeline passes its own noise levels, which the other solvers do not accept.
    samplers = EULER + NOISY
    fields = (CFG_NORMALIZATION,)
    defaults: Mapping[str, object] = {"sampler": "flow_euler", "steps": 30, "guidance_scale": 4.0, "dtype": "bf16"}

    def inspect(self, index: Config, configs: Mapping[str, Config]) -> ModelInfo:
        transformer, vae, own_scheduler = configs["transformer"], configs["vae"], configs["scheduler"]
        check_flow(own_scheduler)
        if own_scheduler.get("use_dynamic_shifting"):
            # It computes mu from the number of latent channels.
            raise ModelError(f"{own_scheduler.source}: its pipeline has no shift by the picture's size")
        channels, latent_channels = transformer.get("in_channels", 16), vae.get("latent_channels", 4)
        if channels != latent_channels or transformer.get("out_channels") not in (None, channels):
            raise not_text_to_image(transformer, channels, latent_channels)
        width = configs["text_encoder"].get("hidden_size", 2304)
        require_width(transformer, "cap_feat_dim", 1024, width, "the text encoder")
        places = transformer.get("axes_lens", [300, 512, 512])
        if places[0] <= MAX_TOKENS:
            raise ModelError(f"{transformer.source}: axes_lens has {places[0]} places for texts of {MAX_TOKENS} tokens")
        scale = latent_scale(vae)
        size, max_side = transformer.get("sample_size", 128) * scale, min(places[1:]) * 2 * scale
        return self.model_info(
            own_scheduler,
            prediction_type=FLOW,
            height=min(size, max_side),
            width=min(size, max_side),
            size_multiple=2 * scale,
            max_side=max_side,
            max_tokens=MAX_TOKENS,
        )

    def schedule(self, request: Request, info: ModelInfo, config: Mapping[str, object]) -> Mapping[str, object]:
        return {"sigmas": evenly_spaced(int(request.steps))}

    def refusal(self, request: Request, info: ModelInfo) -> str | None:
        factor = request.extra.get("cfg_normalization", 1.0)
        return None if factor in (0, 1) else f"cfg_normalization is 0 or 1 with {self.title}, not {factor:g}"
