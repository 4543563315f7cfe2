"""FLUX.1 schnell and dev (Black Forest Labs 2024): checks of their folders, and facts read from them."""

from __future__ import annotations

from collections.abc import Mapping

from sdbatch.bounds import Number
from sdbatch.diffusion.adapters.lora_rows import LORA
from sdbatch.diffusion.checkpoints.architectures import AUTOENCODER_KL, CLIP_TEXT, FLOW_SCHEDULER, T5_TEXT, latent_scale
from sdbatch.diffusion.checkpoints.configs import Config, Kind, boolean, integer, list_of, optional, text
from sdbatch.diffusion.checkpoints.model_info import FLOW, ModelInfo
from sdbatch.diffusion.families.declaration import Declaration, network, scheduler, text_encoder, tokenizer
from sdbatch.diffusion.families.flow import EULER, SOLVERS, TASKS, check_flow, require_packed_latents, shifted
from sdbatch.diffusion.request import ROWS, Request
from sdbatch.fields import Field

__all__ = ["FluxFamily"]

TRANSFORMER: Mapping[str, Kind] = {
    "_class_name": text("FluxTransformer2DModel"),
    "patch_size": integer(1, 1),
    "in_channels": integer(4, 1024),
    "out_channels": optional(integer(4, 1024)),
    "num_layers": integer(0, 256),
    "num_single_layers": integer(0, 256),
    "attention_head_dim": integer(1, 1024),
    "num_attention_heads": integer(1, 1024),
    "joint_attention_dim": integer(1, 65536),
    "pooled_projection_dim": integer(1, 65536),
    "guidance_embeds": boolean(),
    "axes_dims_rope": list_of(integer(2, 1024), 3, 3),
}
# `max_sequence_length` of the pipeline. Padding is attended to, so another length would give other pictures.
MAX_TOKENS = 512
OWN_LATENTS = 128


class FluxFamily(Declaration):
    """Latents in packs of 2×2, T5 and CLIP texts; guidance is an input of the denoiser (dev) or absent (schnell).

    A row may also have guidance away from a negative prompt: `true_cfg_scale` of the pipeline.
    """

    name = "flux"
    title = "FLUX.1"
    pipelines = ("FluxPipeline",)
    parts = (
        text_encoder("text_encoder", CLIP_TEXT, "CLIPTextModel"),
        text_encoder("text_encoder_2", T5_TEXT, "T5EncoderModel"),
        tokenizer("tokenizer"),
        tokenizer("tokenizer_2"),
        network("transformer", TRANSFORMER, "FluxTransformer2DModel"),
        network("vae", AUTOENCODER_KL, "AutoencoderKL"),
        scheduler(FLOW_SCHEDULER),
    )
    engine = "sdbatch.diffusion.families.flux:Flux"
    block_counts = ("num_layers", "num_single_layers")
    releases_text_encoders = True
    # The others draw noise, which the pipeline draws for packed latents, or ignore the pipeline's noise levels.
    samplers = EULER + SOLVERS
    fields = (
        LORA,
        Field(
            name="true_cfg_scale",
            kind=Number(0, 1000),
            default=1.0,
            help="FLUX.1: guidance away from the negative prompt, in a second lane; off if 1 or less",
            group=ROWS,
            metavar="G",
            parameter="True CFG scale",
        ),
    )
    defaults: Mapping[str, object] = {"sampler": "flow_euler", "steps": 28, "guidance_scale": 3.5, "dtype": "bf16"}

    def inspect(self, index: Config, configs: Mapping[str, Config]) -> ModelInfo:
        transformer, vae, own_scheduler = configs["transformer"], configs["vae"], configs["scheduler"]
        check_flow(own_scheduler)
        require_packed_latents(transformer, vae)
        is_told = transformer.get("guidance_embeds", False)
        scale = latent_scale(vae)
        return self.model_info(
            own_scheduler,
            title="FLUX.1 dev" if is_told else "FLUX.1 schnell",
            prediction_type=FLOW,
            height=OWN_LATENTS * scale,
            width=OWN_LATENTS * scale,
            size_multiple=2 * scale,
            vae_scale=2 * scale,
            tasks=TASKS,
            max_tokens=MAX_TOKENS,
            guidance_embedded=is_told,
            uses=self.uses if is_told else self.uses - {"guidance_scale"},
            defaults=self.defaults if is_told else {**self.defaults, "steps": 4, "guidance_scale": 1.0},
        )

    def schedule(self, request: Request, info: ModelInfo, config: Mapping[str, object]) -> Mapping[str, object]:
        return shifted(request, info, config)

    def guidance(self, request: Request, info: ModelInfo) -> float:
        scale = float(request.extra.get("true_cfg_scale", 1.0))
        return scale if scale > 1 and request.negative_prompt else 1.0
