"""Allowed values in configurations of networks, tokenizers and schedulers: types, and generous bounds.

Without bounds a wrong number could build a network that fills all memory. A key is `optional` if its library
treats null as absent.
"""

from __future__ import annotations

from collections.abc import Mapping

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

__all__ = [
    "AUTOENCODER_KL",
    "CLIP_TEXT",
    "DECODER_TEXT",
    "FLOW_SCHEDULER",
    "INDEX_KINDS",
    "NORMALIZER",
    "PART_OF_INDEX",
    "PROCESSOR",
    "SCHEDULER",
    "T5_TEXT",
    "TOKENIZER",
    "UNET",
    "VAE_OR_TINY",
    "VISION",
    "is_tiny",
    "latent_scale",
]

_WIDTH = integer(1, 16384)
_LAYERS = integer(0, 64)
_BLOCKS = list_of(text(), 1, 16)
_FLAG = boolean()
_NAMES = list_of(optional(text()), 2, 2)
_TOKEN = optional(one_or_list(integer(0, 1 << 24)))

INDEX_KINDS: Mapping[str, Kind] = {"_class_name": text()}
# Library and class of a component.
PART_OF_INDEX = optional(_NAMES)

UNET: Mapping[str, Kind] = {
    "_class_name": text("UNet2DConditionModel"),
    "sample_size": optional(one_or_list(integer(1, 1024), 2, 2)),
    "in_channels": _WIDTH,
    "out_channels": _WIDTH,
    "center_input_sample": _FLAG,
    "flip_sin_to_cos": _FLAG,
    "freq_shift": number(),
    "down_block_types": _BLOCKS,
    "mid_block_type": optional(text()),
    "up_block_types": _BLOCKS,
    "only_cross_attention": one_or_list(_FLAG),
    "block_out_channels": list_of(_WIDTH, 1, 16),
    "layers_per_block": one_or_list(_LAYERS),
    "downsample_padding": integer(0, 16),
    "mid_block_scale_factor": number(),
    "dropout": number(0, 1),
    "act_fn": text(),
    "norm_num_groups": optional(_WIDTH),
    "norm_eps": number(0, 1),
    "cross_attention_dim": one_or_list(integer(1, 65536)),
    "transformer_layers_per_block": one_or_list(one_or_list(_LAYERS)),
    "reverse_transformer_layers_per_block": optional(one_or_list(one_or_list(_LAYERS))),
    "attention_head_dim": one_or_list(_WIDTH),
    "num_attention_heads": optional(one_or_list(_WIDTH)),
    "use_linear_projection": _FLAG,
    "upcast_attention": optional(_FLAG),
    "addition_embed_type": optional(text()),
    "addition_time_embed_dim": optional(_WIDTH),
    "addition_embed_type_num_heads": _WIDTH,
    "projection_class_embeddings_input_dim": optional(integer(1, 65536)),
    "num_class_embeds": optional(integer(1, 100_000)),
    "class_embed_type": optional(text()),
    "time_embedding_type": text(),
    "time_embedding_dim": optional(_WIDTH),
    "time_embedding_act_fn": optional(text()),
    "timestep_post_act": optional(text()),
    "time_cond_proj_dim": optional(integer(4, 65536)),
    "conv_in_kernel": integer(1, 15),
    "conv_out_kernel": integer(1, 15),
    "resnet_time_scale_shift": text(),
    "resnet_out_scale_factor": number(),
    "resnet_skip_time_act": _FLAG,
    "attention_type": text(),
    "mid_block_only_cross_attention": optional(_FLAG),
}
AUTOENCODER_KL: Mapping[str, Kind] = {
    "_class_name": text("AutoencoderKL"),
    "in_channels": _WIDTH,
    "out_channels": integer(3, 3),
    "down_block_types": _BLOCKS,
    "up_block_types": _BLOCKS,
    "block_out_channels": list_of(_WIDTH, 1, 8),
    "layers_per_block": _LAYERS,
    "act_fn": text(),
    "latent_channels": _WIDTH,
    "norm_num_groups": _WIDTH,
    "sample_size": one_or_list(integer(1, 65536), 2, 2),
    "scaling_factor": number(1e-6, 1e6),
    "shift_factor": optional(number()),
    "latents_mean": optional(list_of(number(), maximum=1024)),
    "latents_std": optional(list_of(number(), maximum=1024)),
    "force_upcast": optional(_FLAG),
    "use_quant_conv": _FLAG,
    "use_post_quant_conv": _FLAG,
    "mid_block_add_attention": _FLAG,
}
_TINY = "AutoencoderTiny"
# Of Stable Diffusion, or its approximation by TAESD.
VAE_OR_TINY: Mapping[str, Kind] = {
    **AUTOENCODER_KL,
    "_class_name": text("AutoencoderKL", _TINY),
    "encoder_block_out_channels": list_of(_WIDTH, 1, 8),
    "decoder_block_out_channels": list_of(_WIDTH, 1, 8),
    "num_encoder_blocks": list_of(_LAYERS, 1, 8),
    "num_decoder_blocks": list_of(_LAYERS, 1, 8),
    "upsampling_scaling_factor": integer(2, 2),
    "upsample_fn": text(),
    "latent_magnitude": number(1e-6, 1e6),
    "latent_shift": number(),
}
CLIP_TEXT: Mapping[str, Kind] = {
    "architectures": optional(list_of(text())),
    "model_type": text(),
    "vocab_size": integer(1, 1 << 22),
    "hidden_size": _WIDTH,
    "intermediate_size": integer(1, 1 << 17),
    "projection_dim": _WIDTH,
    "num_hidden_layers": integer(1, 256),
    "num_attention_heads": _WIDTH,
    "max_position_embeddings": integer(2, 65536),
    "hidden_act": text(),
    "layer_norm_eps": number(0, 1),
    "attention_dropout": number(0, 1),
    "initializer_range": number(),
    "initializer_factor": number(),
    "bos_token_id": _TOKEN,
    "eos_token_id": _TOKEN,
    "pad_token_id": _TOKEN,
    "use_attention_mask": optional(_FLAG),
}
TOKENIZER: Mapping[str, Kind] = {
    # Transformers writes 10^30 for "no limit", and reads null so.
    "model_max_length": optional(number(2)),
    "add_prefix_space": optional(_FLAG),
    "do_lower_case": optional(_FLAG),
    "errors": optional(text()),
    "padding_side": optional(text("left", "right")),
    "truncation_side": optional(text("left", "right")),
}
SCHEDULER: Mapping[str, Kind] = {
    "_class_name": text(),
    "num_train_timesteps": integer(1, 100_000),
    "original_inference_steps": integer(1, 100_000),
    "prediction_type": text("epsilon", "v_prediction", "sample"),
    "beta_start": number(0, 1),
    "beta_end": number(0, 1),
    "beta_schedule": text("linear", "scaled_linear", "squaredcos_cap_v2", "sigmoid", "laplace", "exp"),
    "trained_betas": optional(list_of(number(0, 1), maximum=100_000)),
    "timestep_spacing": text("linspace", "leading", "trailing"),
    "timestep_scaling": number(),
    "steps_offset": integer(0, 1000),
    "rescale_betas_zero_snr": _FLAG,
    "set_alpha_to_one": _FLAG,
    "skip_prk_steps": _FLAG,
    "clip_sample": _FLAG,
    "clip_sample_range": optional(number()),
    "thresholding": _FLAG,
    "dynamic_thresholding_ratio": number(),
    "sample_max_value": number(),
    "variance_type": optional(text()),
    "interpolation_type": text(),
    "algorithm_type": text(),
    "solver_type": text(),
    "solver_order": integer(1, 4),
    "lower_order_final": _FLAG,
    "euler_at_final": _FLAG,
    "use_karras_sigmas": optional(_FLAG),
    "use_exponential_sigmas": optional(_FLAG),
    "use_beta_sigmas": optional(_FLAG),
    "final_sigmas_type": text("zero", "sigma_min"),
    "lambda_min_clipped": number(infinite=True),
    "sigma_min": optional(number()),
    "sigma_max": optional(number()),
}
FLOW_SCHEDULER: Mapping[str, Kind] = {
    **SCHEDULER,
    "prediction_type": text("flow_prediction", "epsilon", "v_prediction", "sample"),
    "shift": number(1e-3, 1e3),
    "flow_shift": optional(number(1e-3, 1e3)),
    "use_flow_sigmas": optional(_FLAG),
    "use_dynamic_shifting": _FLAG,
    "base_shift": optional(number(-100, 100)),
    "max_shift": optional(number(-100, 100)),
    "base_image_seq_len": optional(integer(1, 1 << 20)),
    "max_image_seq_len": optional(integer(1, 1 << 20)),
    "invert_sigmas": _FLAG,
    "shift_terminal": optional(number(0, 1)),
    "time_shift_type": text("exponential", "linear"),
    "stochastic_sampling": _FLAG,
}
T5_TEXT: Mapping[str, Kind] = {
    "architectures": optional(list_of(text())),
    "model_type": text(),
    "vocab_size": integer(1, 1 << 22),
    "d_model": _WIDTH,
    "d_kv": _WIDTH,
    "d_ff": integer(1, 1 << 17),
    "num_layers": integer(1, 256),
    "num_decoder_layers": optional(integer(0, 256)),
    "num_heads": _WIDTH,
    "feed_forward_proj": text(),
    "relative_attention_num_buckets": integer(1, 4096),
    "relative_attention_max_distance": integer(1, 1 << 20),
    "layer_norm_epsilon": number(0, 1),
    "dropout_rate": number(0, 1),
    "initializer_factor": number(),
    "eos_token_id": _TOKEN,
    "pad_token_id": _TOKEN,
}
# Language models whose hidden states are used: Qwen 3, Gemma 2.
DECODER_TEXT: Mapping[str, Kind] = {
    "architectures": optional(list_of(text())),
    "model_type": text(),
    "vocab_size": integer(1, 1 << 22),
    "hidden_size": _WIDTH,
    "intermediate_size": integer(1, 1 << 17),
    "num_hidden_layers": integer(1, 256),
    "num_attention_heads": _WIDTH,
    "num_key_value_heads": optional(_WIDTH),
    "head_dim": optional(_WIDTH),
    "max_position_embeddings": integer(2, 1 << 24),
    "hidden_act": text(),
    "rms_norm_eps": number(0, 1),
    "attention_dropout": number(0, 1),
    "tie_word_embeddings": _FLAG,
    "bos_token_id": _TOKEN,
    "eos_token_id": _TOKEN,
    "pad_token_id": _TOKEN,
}
# Common keys of CLIP's vision tower and DPT; the rest of DPT is checked by building it.
VISION: Mapping[str, Kind] = {
    "model_type": text(),
    "hidden_size": _WIDTH,
    "intermediate_size": integer(1, 1 << 17),
    "projection_dim": _WIDTH,
    "num_hidden_layers": integer(1, 256),
    "num_attention_heads": _WIDTH,
    "num_channels": integer(3, 3),
    "image_size": integer(1, 4096),
    "patch_size": _WIDTH,
    "hidden_act": text(),
    "layer_norm_eps": number(0, 1),
    "fusion_hidden_size": _WIDTH,
    "neck_hidden_sizes": list_of(_WIDTH, 1, 16),
}
NORMALIZER: Mapping[str, Kind] = {"_class_name": text("StableUnCLIPImageNormalizer"), "embedding_dim": _WIDTH}
_EDGES = one_or_list(integer(1, 4096))
_SIZE = Kind(
    "a number of pixels, or an object of such numbers",
    lambda value: _EDGES.accepts(list(value.values()) if isinstance(value, dict) else value),
)
PROCESSOR: Mapping[str, Kind] = {
    "size": _SIZE,
    "crop_size": _SIZE,
    "do_resize": _FLAG,
    "do_center_crop": _FLAG,
    "do_rescale": _FLAG,
    "do_normalize": _FLAG,
    "image_mean": optional(list_of(number(), 3, 3)),
    "image_std": optional(list_of(number(), 3, 3)),
    "resample": integer(0, 5),
    "rescale_factor": number(),
}


def is_tiny(vae: Config) -> bool:
    """Whether a VAE is TAESD, which approximates another one."""
    return vae.get("_class_name") == _TINY


def latent_scale(vae: Config) -> int:
    """Pixels per side of a latent pixel of an `AutoencoderKL` or `AutoencoderTiny`."""
    blocks = vae.get("num_decoder_blocks", "1111") if is_tiny(vae) else vae.get("block_out_channels", "1")
    return 2 ** (len(blocks) - 1)
