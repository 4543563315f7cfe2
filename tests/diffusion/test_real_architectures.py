"""Configurations of the published checkpoints, at their real sizes: read without allocating weights."""

from __future__ import annotations

import json
import math
from pathlib import Path

import diffusers
import pytest
import torch
import transformers

from sdbatch.diffusion.calls import count_parameters
from sdbatch.diffusion.checkpoints.configs import read_config
from sdbatch.diffusion.device.gpu_room import WeightBytes, room_on_gpus
from sdbatch.diffusion.families import family_named
from sdbatch.diffusion.models.inspection import headers, inspect_model
from sdbatch.diffusion.models.loading import _check_shapes
from sdbatch.diffusion.request import Request
from sdbatch.diffusion.validation import validate

CLIP_L = ("CLIPTextModel", {"hidden_size": 768, "intermediate_size": 3072, "num_attention_heads": 12})
CLIP_L_PROJECTED = ("CLIPTextModelWithProjection", CLIP_L[1] | {"projection_dim": 768})
CLIP_G = (
    "CLIPTextModelWithProjection",
    {
        "hidden_size": 1280,
        "intermediate_size": 5120,
        "num_hidden_layers": 32,
        "num_attention_heads": 20,
        "projection_dim": 1280,
    },
)
T5_XXL = (
    "T5EncoderModel",
    {
        "vocab_size": 32128,
        "d_model": 4096,
        "d_kv": 64,
        "d_ff": 10240,
        "num_layers": 24,
        "num_heads": 64,
        "feed_forward_proj": "gated-gelu",
    },
)


def qwen3(width: int, between: int, cls: str = "Qwen3Model", heads: int = 32) -> tuple[str, dict]:
    return cls, {
        "vocab_size": 151936,
        "hidden_size": width,
        "intermediate_size": between,
        "num_hidden_layers": 36,
        "num_attention_heads": heads,
        "num_key_value_heads": 8,
        "head_dim": 128,
        "tie_word_embeddings": True,
    }


QWEN_VL = (
    "Qwen2_5_VLForConditionalGeneration",
    {
        "text_config": {
            "vocab_size": 152064,
            "hidden_size": 3584,
            "intermediate_size": 18944,
            "num_hidden_layers": 28,
            "num_attention_heads": 28,
            "num_key_value_heads": 4,
            "rope_scaling": {"type": "default", "mrope_section": [16, 24, 24], "rope_type": "default"},
        },
        "vision_config": {"depth": 32, "hidden_size": 1280, "num_heads": 16, "out_hidden_size": 3584},
    },
)
MISTRAL_SMALL = (
    "Mistral3ForConditionalGeneration",
    {
        "text_config": {
            "model_type": "mistral",
            "vocab_size": 131072,
            "hidden_size": 5120,
            "intermediate_size": 32768,
            "num_hidden_layers": 40,
            "num_attention_heads": 32,
            "num_key_value_heads": 8,
            "head_dim": 128,
        },
        "vision_config": {
            "model_type": "pixtral",
            "hidden_size": 1024,
            "intermediate_size": 4096,
            "num_hidden_layers": 24,
            "num_attention_heads": 16,
            "image_size": 1540,
            "patch_size": 14,
        },
    },
)
KL_16 = (
    "AutoencoderKL",
    {
        "block_out_channels": [128, 256, 512, 512],
        "down_block_types": ["DownEncoderBlock2D"] * 4,
        "up_block_types": ["UpDecoderBlock2D"] * 4,
        "layers_per_block": 2,
        "latent_channels": 16,
        "scaling_factor": 0.3611,
        "shift_factor": 0.1159,
        "use_quant_conv": False,
        "use_post_quant_conv": False,
    },
)
DC_AE = (
    "AutoencoderDC",
    {
        "encoder_block_types": ["ResBlock"] * 3 + ["EfficientViTBlock"] * 3,
        "decoder_block_types": ["ResBlock"] * 3 + ["EfficientViTBlock"] * 3,
        "encoder_qkv_multiscales": [[], [], [], [5], [5], [5]],
        "decoder_qkv_multiscales": [[], [], [], [5], [5], [5]],
    },
)
DYNAMIC = {"use_dynamic_shifting": True, "base_shift": 0.5, "max_shift": 1.15, "shift": 3.0}
FLOW = ("FlowMatchEulerDiscreteScheduler", {"shift": 3.0})

MODELS = {
    "sd3.5-large": (
        "StableDiffusion3Pipeline",
        {
            "transformer": (
                "SD3Transformer2DModel",
                {
                    "sample_size": 128,
                    "num_layers": 38,
                    "num_attention_heads": 38,
                    "joint_attention_dim": 4096,
                    "caption_projection_dim": 2432,
                    "pooled_projection_dim": 2048,
                    "pos_embed_max_size": 192,
                    "qk_norm": "rms_norm",
                },
            ),
            "vae": KL_16,
            "text_encoder": CLIP_L_PROJECTED,
            "text_encoder_2": CLIP_G,
            "text_encoder_3": T5_XXL,
            "scheduler": FLOW,
        },
        (1024, 16, 13.7),
    ),
    "flux-dev": (
        "FluxPipeline",
        {
            "transformer": ("FluxTransformer2DModel", {"guidance_embeds": True}),
            "vae": KL_16,
            "text_encoder": CLIP_L,
            "text_encoder_2": T5_XXL,
            "scheduler": (FLOW[0], DYNAMIC),
        },
        (1024, 16, 16.9),
    ),
    "chroma1-hd": (
        "ChromaPipeline",
        {
            "transformer": ("ChromaTransformer2DModel", {}),
            "vae": KL_16,
            "text_encoder": T5_XXL,
            "scheduler": (FLOW[0], {"shift": 1.0, "use_beta_sigmas": True}),
        },
        (1024, 16, 13.7),
    ),
    "flux2-dev": (
        "Flux2Pipeline",
        {
            "transformer": ("Flux2Transformer2DModel", {}),
            "vae": ("AutoencoderKLFlux2", {}),
            "text_encoder": MISTRAL_SMALL,
            "scheduler": (FLOW[0], DYNAMIC),
        },
        (1024, 16, 56.3),
    ),
    "flux2-klein-4b": (
        "Flux2KleinPipeline",
        {
            "transformer": (
                "Flux2Transformer2DModel",
                {
                    "num_layers": 5,
                    "num_single_layers": 20,
                    "num_attention_heads": 24,
                    "joint_attention_dim": 7680,
                    "guidance_embeds": False,
                },
            ),
            "vae": ("AutoencoderKLFlux2", {}),
            "text_encoder": qwen3(2560, 9728, "Qwen3ForCausalLM"),
            "scheduler": (FLOW[0], DYNAMIC),
        },
        (1024, 16, 8.0),
    ),
    "z-image": (
        "ZImagePipeline",
        {
            "transformer": ("ZImageTransformer2DModel", {}),
            "vae": KL_16,
            "text_encoder": qwen3(2560, 9728),
            "scheduler": FLOW,
        },
        (1024, 16, 10.3),
    ),
    "lumina-image-2.0": (
        "Lumina2Pipeline",
        {
            "transformer": ("Lumina2Transformer2DModel", {"cap_feat_dim": 2304}),
            "vae": KL_16,
            "text_encoder": ("Gemma2Model", {}),
            "scheduler": (FLOW[0], {"shift": 6.0}),
        },
        (1024, 16, 5.3),
    ),
    "qwen-image": (
        "QwenImagePipeline",
        {
            "transformer": ("QwenImageTransformer2DModel", {}),
            "vae": ("AutoencoderKLQwenImage", {}),
            "text_encoder": QWEN_VL,
            "scheduler": (FLOW[0], DYNAMIC | {"shift_terminal": 0.02}),
        },
        (1024, 16, 28.9),
    ),
    "pixart-sigma": (
        "PixArtSigmaPipeline",
        {
            "transformer": (
                "PixArtTransformer2DModel",
                {"sample_size": 128, "caption_channels": 4096, "use_additional_conditions": False},
            ),
            "vae": (KL_16[0], KL_16[1] | {"latent_channels": 4}),
            "text_encoder": T5_XXL,
            "scheduler": ("DPMSolverMultistepScheduler", {"beta_schedule": "linear"}),
        },
        (1024, 16, 5.5),
    ),
    "sana-1.6b": (
        "SanaPipeline",
        {
            "transformer": ("SanaTransformer2DModel", {}),
            "vae": DC_AE,
            "text_encoder": ("Gemma2Model", {}),
            "scheduler": (
                "DPMSolverMultistepScheduler",
                {"use_flow_sigmas": True, "flow_shift": 3.0, "prediction_type": "flow_prediction"},
            ),
        },
        (1024, 32, 4.5),
    ),
    "sana-sprint-1.6b": (
        "SanaSprintPipeline",
        {
            "transformer": (
                "SanaTransformer2DModel",
                {"guidance_embeds": True, "qk_norm": "rms_norm_across_heads"},
            ),
            "vae": DC_AE,
            "text_encoder": ("Gemma2Model", {}),
            "scheduler": ("SCMScheduler", {}),
        },
        (1024, 32, 4.5),
    ),
}


def build(folder: Path, pipeline: str, parts: dict) -> Path:
    """The folder as `save_pretrained` writes it; its weight files are holes behind their headers."""
    index: dict = {"_class_name": pipeline}
    for name, (cls, config) in parts.items():
        index[name] = ["transformers" if name.startswith("text_encoder") else "diffusers", cls]
        if name == "scheduler":
            getattr(diffusers, cls)(**config).save_pretrained(folder / name)
            continue
        module = empty(cls, config)
        if name.startswith("text_encoder"):
            module.config.save_pretrained(folder / name)
            tokens = f"tokenizer{name.removeprefix('text_encoder')}"
            index[tokens] = ["transformers", "AutoTokenizer"]
            (folder / tokens).mkdir()
            (folder / tokens / "tokenizer_config.json").write_text("{}")
            write_holes(folder / name / "model.safetensors", module)
        else:
            module.save_config(folder / name)
            write_holes(folder / name / "diffusion_pytorch_model.safetensors", module)
    (folder / "model_index.json").write_text(json.dumps(index))
    return folder


def empty(cls: str, config: dict) -> torch.nn.Module:
    with torch.device("meta"):
        if hasattr(diffusers, cls):
            return getattr(diffusers, cls)(**config)
        network = getattr(transformers, cls)
        return network(network.config_class(**config))


def write_holes(path: Path, module: torch.nn.Module) -> None:
    header, end = {}, 0
    for name, tensor in module.state_dict().items():
        size = 2 * tensor.numel()
        header[name] = {"dtype": "BF16", "shape": list(tensor.shape), "data_offsets": [end, end + size]}
        end += size
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        file.truncate(8 + len(text) + end)


@pytest.mark.parametrize("model", MODELS)
def test_a_real_model_is_read_without_its_weights(model, tmp_path):
    pipeline, parts, (size, multiple, billions) = MODELS[model]
    info = inspect_model(build(tmp_path / "model", pipeline, parts))
    assert (info.height, info.width, info.size_multiple) == (size, size, multiple)
    assert math.isclose(count_parameters(info) / 1e9, billions, rel_tol=0.05)
    row = {name: info.defaults[name] for name in ("sampler", "steps", "guidance_scale")}
    assert validate(Request("a red fox", **row), info) is None
    tensors = headers(info)
    for part in family_named(info.family).parts:
        if part.has_weights:
            library = diffusers if part.sort == "network" else transformers
            config = dict(read_config(info.folder / part.name / "config.json"))
            _check_shapes(getattr(library, parts[part.name][0]), config, part.of_transformers, tensors[part.name])


def test_what_fits_on_a_gpu():
    assert room_on_gpus(WeightBytes(0, 5_100_000_000)) is None
    assert room_on_gpus(WeightBytes(0, 16_000_000_000)) == "leaves 8 of 24 GB, 32 of 48 GB, 64 of 80 GB for sampling"
    assert room_on_gpus(WeightBytes(0, 33_800_000_000)) == (
        "too much for a GPU of 24 GB; leaves 14 of 48 GB, 46 of 80 GB for sampling"
    )
    assert room_on_gpus(WeightBytes(0, 100_000_000_000)) == "too much for a GPU of 24 or 48 or 80 GB"
