"""Chroma (Lodestone Rock 2025): checks of its folder, and facts read from it."""

from __future__ import annotations

from collections.abc import Mapping

from sdbatch.diffusion.adapters.lora_rows import LORA
from sdbatch.diffusion.checkpoints.architectures import AUTOENCODER_KL, FLOW_SCHEDULER, T5_TEXT, latent_scale
from sdbatch.diffusion.checkpoints.configs import Config, Kind, integer, list_of, optional, text
from sdbatch.diffusion.checkpoints.model_info import FLOW, ModelInfo
from sdbatch.diffusion.families.declaration import Declaration, network, scheduler, text_encoder, tokenizer
from sdbatch.diffusion.families.flow import (
    EULER,
    TASKS,
    check_flow,
    require_packed_latents,
    require_width,
    shifted,
)
from sdbatch.diffusion.request import Request

__all__ = ["ChromaFamily"]

TRANSFORMER: Mapping[str, Kind] = {
    "_class_name": text("ChromaTransformer2DModel"),
    "patch_size": integer(1, 1),
    "in_channels": integer(4, 1024),
    "out_channels": optional(integer(4, 1024)),
    "num_layers": integer(0, 256),
    "num_single_layers": integer(0, 256),
    "attention_head_dim": integer(1, 1024),
    "num_attention_heads": integer(1, 1024),
    "joint_attention_dim": integer(1, 65536),
    "axes_dims_rope": list_of(integer(2, 1024), 3, 3),
    "approximator_num_channels": integer(8, 65536),
    "approximator_hidden_dim": integer(1, 65536),
    "approximator_layers": integer(1, 256),
}
# `max_sequence_length` of the pipeline. Its mask does not hide padding, so another length would give other pictures.
MAX_TOKENS = 512
OWN_LATENTS = 128


class ChromaFamily(Declaration):
    """FLUX.1's blocks, whose modulations a small network makes of the timestep alone; T5 texts, classifier-free."""

    name = "chroma"
    title = "Chroma"
    pipelines = ("ChromaPipeline",)
    parts = (
        text_encoder("text_encoder", T5_TEXT, "T5EncoderModel"),
        tokenizer("tokenizer"),
        network("transformer", TRANSFORMER, "ChromaTransformer2DModel"),
        network("vae", AUTOENCODER_KL, "AutoencoderKL"),
        scheduler(FLOW_SCHEDULER),
    )
    engine = "sdbatch.diffusion.families.chroma:Chroma"
    block_counts = ("num_layers", "num_single_layers")
    releases_text_encoders = True
    # The others draw noise, which the pipeline draws for packed latents, or do not accept the pipeline's noise levels.
    samplers = EULER
    fields = (LORA,)
    defaults: Mapping[str, object] = {"sampler": "flow_euler", "steps": 35, "guidance_scale": 5.0, "dtype": "bf16"}

    def inspect(self, index: Config, configs: Mapping[str, Config]) -> ModelInfo:
        transformer, vae, own_scheduler = configs["transformer"], configs["vae"], configs["scheduler"]
        check_flow(own_scheduler)
        require_packed_latents(transformer, vae)
        width = configs["text_encoder"].get("d_model", 512)
        require_width(transformer, "joint_attention_dim", 4096, width, "the text encoder")
        scale = latent_scale(vae)
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
