"""Z-Image and Z-Image-Turbo (Tongyi-MAI 2025): checks of their folders, and facts read from them."""

from __future__ import annotations

from collections.abc import Mapping

from sdbatch.bounds import Number
from sdbatch.diffusion.adapters.lora_rows import LORA
from sdbatch.diffusion.checkpoints.architectures import AUTOENCODER_KL, DECODER_TEXT, FLOW_SCHEDULER, latent_scale
from sdbatch.diffusion.checkpoints.configs import Config, Kind, integer, list_of, number, optional, text
from sdbatch.diffusion.checkpoints.model_info import FLOW, ModelInfo
from sdbatch.diffusion.families.declaration import Declaration, network, scheduler, text_encoder, tokenizer
from sdbatch.diffusion.families.flow import (
    EULER,
    NOISY,
    TASKS,
    check_flow,
    not_text_to_image,
    require_width,
    shifted,
)
from sdbatch.diffusion.request import ROWS, Request
from sdbatch.errors import ModelError
from sdbatch.fields import Field, FrozenMapping

__all__ = ["CFG_NORMALIZATION", "ZImageFamily"]

CFG_NORMALIZATION = Field(
    name="cfg_normalization",
    kind=Number(0, 1000),
    default=0.0,
    of_family=FrozenMapping({"lumina2": 1.0}),
    help="Z-Image: maximum norm of a guided output, as a multiple of the conditional output's; 0 is off. Lumina 2: "
    "1 gives each line of a guided output the norm of the conditional one's, 0 does not",
    group=ROWS,
    metavar="F",
)

TRANSFORMER: Mapping[str, Kind] = {
    "_class_name": text("ZImageTransformer2DModel"),
    "all_patch_size": list_of(integer(2, 2), 1, 1),
    "all_f_patch_size": list_of(integer(1, 1), 1, 1),
    "in_channels": integer(1, 1024),
    "dim": integer(1, 16384),
    "n_layers": integer(1, 256),
    "n_refiner_layers": integer(0, 64),
    "n_heads": integer(1, 1024),
    "n_kv_heads": integer(1, 1024),
    "cap_feat_dim": integer(1, 65536),
    "siglip_feat_dim": optional(integer(1, 65536)),
    "rope_theta": number(1, 1e9),
    "t_scale": number(1e-6, 1e6),
    "axes_dims": list_of(integer(2, 1024), 3, 3),
    "axes_lens": list_of(integer(1, 1 << 16), 3, 3),
}
# `max_sequence_length` of the pipeline.
MAX_TOKENS = 512
OWN_SIZE = 1024


class ZImageFamily(Declaration):
    """Qwen 3 texts of varying length in one sequence with the picture; a guidance scale that counts from 0."""

    name = "z-image"
    title = "Z-Image"
    pipelines = ("ZImagePipeline",)
    parts = (
        text_encoder("text_encoder", DECODER_TEXT, "Qwen3Model", "Qwen3ForCausalLM"),
        tokenizer("tokenizer"),
        network("transformer", TRANSFORMER, "ZImageTransformer2DModel"),
        network("vae", AUTOENCODER_KL, "AutoencoderKL"),
        scheduler(FLOW_SCHEDULER),
    )
    engine = "sdbatch.diffusion.families.z_image:ZImage"
    block_counts = ("n_layers",)
    releases_text_encoders = True
    # The pipeline passes its own noise levels, which the other solvers do not accept.
    samplers = EULER + NOISY
    fields = (
        LORA,
        CFG_NORMALIZATION,
        Field(
            name="cfg_truncation",
            kind=Number(0, 1),
            default=1.0,
            help="Z-Image: guidance stops at this share of the noise removed",
            group=ROWS,
            metavar="F",
        ),
    )
    defaults: Mapping[str, object] = {"sampler": "flow_euler", "steps": 50, "guidance_scale": 5.0, "dtype": "bf16"}

    def inspect(self, index: Config, configs: Mapping[str, Config]) -> ModelInfo:
        transformer, vae, own_scheduler = configs["transformer"], configs["vae"], configs["scheduler"]
        check_flow(own_scheduler)
        if transformer.get("siglip_feat_dim"):
            raise ModelError(f"{transformer.source}: a transformer that takes pictures is not text-to-image")
        channels, latent_channels = transformer.get("in_channels", 16), vae.get("latent_channels", 4)
        if channels != latent_channels:
            raise not_text_to_image(transformer, channels, latent_channels)
        require_width(
            transformer, "cap_feat_dim", 2560, configs["text_encoder"].get("hidden_size", 4096), "the text encoder"
        )
        places = transformer.get("axes_lens", [1024, 512, 512])
        if places[0] <= MAX_TOKENS + 1:
            raise ModelError(f"{transformer.source}: axes_lens has {places[0]} places for texts of {MAX_TOKENS} tokens")
        patch = 2 * latent_scale(vae)
        return self.model_info(
            own_scheduler,
            prediction_type=FLOW,
            height=min(OWN_SIZE, places[1] * patch),
            width=min(OWN_SIZE, places[2] * patch),
            size_multiple=patch,
            vae_scale=patch,
            tasks=TASKS,
            max_side=min(places[1:]) * patch,
            max_tokens=MAX_TOKENS,
        )

    def schedule(self, request: Request, info: ModelInfo, config: Mapping[str, object]) -> Mapping[str, object]:
        return shifted(request, info, config)

    def guidance(self, request: Request, info: ModelInfo) -> float:
        # c + g·(c − u): 0 is off, and 1 equals 2 in the usual definition.
        return 1.0 + float(request.guidance_scale) if request.guidance_scale > 0 else 1.0
