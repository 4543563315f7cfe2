"""Checkpoints in one file, in the layout of the original repositories: the names of their tensors by hand."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from pathlib import Path

import torch
from checkpoints import CONTEXT, SD_SCHEDULER, _text_config, _tokenizer, _unet, _vae
from diffusers import (
    AutoencoderKL,
    DDIMScheduler,
    StableDiffusionInpaintPipeline,
    StableDiffusionPipeline,
    StableDiffusionXLInpaintPipeline,
    StableDiffusionXLPipeline,
    UNet2DConditionModel,
)
from safetensors.torch import load_file, save_file
from transformers import CLIPTextModel, CLIPTextModelWithProjection

UNET, VAE = "model.diffusion_model.", "first_stage_model."
RESNET = {
    "norm1": "in_layers.0",
    "conv1": "in_layers.2",
    "norm2": "out_layers.0",
    "conv2": "out_layers.3",
    "time_emb_proj": "emb_layers.1",
    "conv_shortcut": "skip_connection",
}
OUTER = {
    "conv_in.": "input_blocks.0.0.",
    "conv_norm_out.": "out.0.",
    "conv_out.": "out.2.",
    "time_embedding.linear_1.": "time_embed.0.",
    "time_embedding.linear_2.": "time_embed.2.",
    "add_embedding.linear_1.": "label_emb.0.0.",
    "add_embedding.linear_2.": "label_emb.0.2.",
    "mid_block.resnets.0.": "middle_block.0.",
    "mid_block.attentions.0.": "middle_block.1.",
    "mid_block.resnets.1.": "middle_block.2.",
}
ATTENTION = {"group_norm": "norm", "to_q": "q", "to_k": "k", "to_v": "v", "to_out.0": "proj_out"}
OPEN_CLIP = {
    "layer_norm1": "ln_1",
    "layer_norm2": "ln_2",
    "mlp.fc1": "mlp.c_fc",
    "mlp.fc2": "mlp.c_proj",
    "self_attn.out_proj": "attn.out_proj",
}
OPEN_CLIP_OUTER = {
    "text_model.embeddings.position_embedding.weight": "positional_embedding",
    "text_model.embeddings.token_embedding.weight": "token_embedding.weight",
    "text_model.final_layer_norm.weight": "ln_final.weight",
    "text_model.final_layer_norm.bias": "ln_final.bias",
}
Tensors = dict[str, torch.Tensor]
PIPELINES = {
    ("sd1", 4): StableDiffusionPipeline,
    ("sd2", 4): StableDiffusionPipeline,
    ("sdxl", 4): StableDiffusionXLPipeline,
    ("sd1", 9): StableDiffusionInpaintPipeline,
    ("sd2", 9): StableDiffusionInpaintPipeline,
    ("sdxl", 9): StableDiffusionXLInpaintPipeline,
}
# Widths of which a header says how many heads there are: eight in 1.x, else one for 64 features.
WIDTHS = {
    "sd1": {"block_out_channels": (32, 64), "attention_head_dim": 8, "cross_attention_dim": 64},
    "sd2": {"block_out_channels": (64, 128), "attention_head_dim": [1, 2], "cross_attention_dim": 64},
    "sdxl": {
        "block_out_channels": (64, 128),
        "attention_head_dim": [1, 2],
        "cross_attention_dim": 64 + 128,
        "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D"),
        "up_block_types": ("CrossAttnUpBlock2D", "UpBlock2D"),
        "transformer_layers_per_block": [1, 2],
        "addition_embed_type": "text_time",
        "addition_time_embed_dim": 8,
        "projection_class_embeddings_input_dim": 96 + 6 * 8,
    },
}


def build_original(folder: Path, kind: str, *, in_channels: int = 4, prediction_type: str = "epsilon") -> Path:
    """A small checkpoint in diffusers' format, of shapes that follow the rules of the original ones."""
    torch.manual_seed(0)
    tokenizer = _tokenizer(folder)
    text = {"hidden_size": 64, "num_attention_heads": 1, "max_position_embeddings": CONTEXT}
    is_xl, is_linear = kind == "sdxl", kind != "sd1"
    unet = _unet(
        in_channels=in_channels,
        norm_num_groups=32,
        use_linear_projection=is_linear,
        upcast_attention=kind == "sd2",
        **WIDTHS[kind],
    )
    scaling = {"scaling_factor": 0.13025, "force_upcast": True} if is_xl else {}
    parts = {
        "vae": _vae(block_out_channels=(32,) * 4, norm_num_groups=32, **scaling),
        "text_encoder": CLIPTextModel(
            _text_config(tokenizer, **text, hidden_act="gelu" if kind == "sd2" else "quick_gelu")
        ).eval(),
        "tokenizer": tokenizer,
        "unet": unet,
        "scheduler": DDIMScheduler(clip_sample=False, steps_offset=1),
    }
    if is_xl:
        second = text | {"hidden_size": 128, "num_attention_heads": 2, "projection_dim": 96, "hidden_act": "gelu"}
        parts["text_encoder_2"] = CLIPTextModelWithProjection(_text_config(tokenizer, **second)).eval()
        parts["tokenizer_2"] = type(tokenizer).from_pretrained(
            folder / "tokenizer-source", model_max_length=CONTEXT, pad_token="!"
        )
        rest = {"force_zeros_for_empty_prompt": True, "add_watermarker": False}
    else:
        if kind == "sd2":
            tokenizer.pad_token = "!"
        rest = {"safety_checker": None, "feature_extractor": None, "requires_safety_checker": False}
    PIPELINES[kind, in_channels](**parts, **rest).save_pretrained(folder)
    # As published: what it leaves out, each sampler has its own default for.
    scheduler = SD_SCHEDULER | {"_class_name": "DDIMScheduler", "prediction_type": prediction_type}
    scheduler |= {"set_alpha_to_one": False, **({"timestep_spacing": "leading"} if is_xl else {})}
    (folder / "scheduler" / "scheduler_config.json").write_text(json.dumps(scheduler))
    return folder


def as_single_file(folder: Path, file: Path, kind: str, metadata: Mapping[str, str] | None = None) -> Path:
    """Write the weights of a folder in diffusers' format as one file of kind "sd1", "sd2" or "sdxl"."""

    def read(part: str) -> Tensors:
        (path,) = (folder / part).glob("*.safetensors")
        return load_file(path)

    unet, vae = (
        cls.from_config(cls.load_config(folder / part))
        for part, cls in (("unet", UNet2DConditionModel), ("vae", AutoencoderKL))
    )
    blocks = len(vae.config.block_out_channels)
    tensors = original(kind, read("unet"), unet.config.layers_per_block, read("vae"), blocks)
    tensors |= texts(kind, [read("text_encoder")] + ([read("text_encoder_2")] if kind == "sdxl" else []))
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, file, metadata)
    return file


def original(kind: str, unet: Tensors, layers: int, vae: Tensors, blocks: int) -> Tensors:
    """Both networks by the original names."""
    attending = {name.partition(".attentions")[0] for name in unet if ".attentions" in name}
    tensors = {UNET + _of_unet(name, layers, attending): tensor for name, tensor in unet.items()}
    for name, tensor in vae.items():
        is_square = re.search(r"attentions\.0\.to_\w+(\.0)?\.weight", name)
        tensors[VAE + _of_vae(name, blocks)] = tensor[:, :, None, None] if is_square else tensor
    return tensors


def texts(kind: str, encoders: Iterable[Tensors]) -> Tensors:
    """The text encoders by the original names."""
    first, *second = (
        {name if name.startswith(("text_model.", "text_projection")) else f"text_model.{name}": tensor
         for name, tensor in encoder.items()}
        for encoder in encoders
    )  # fmt: skip
    if kind == "sd2":
        return _open_clip(first, "cond_stage_model.model.")
    prefix = "cond_stage_model.transformer." if kind == "sd1" else "conditioner.embedders.0.transformer."
    tensors = {prefix + name: tensor for name, tensor in first.items()}
    return tensors | (_open_clip(second[0], "conditioner.embedders.1.model.") if second else {})


def _of_unet(name: str, layers: int, attending: set[str]) -> str:
    for ours, theirs in OUTER.items():
        if name.startswith(ours):
            rest = name.removeprefix(ours)
            return theirs + (_resnet(rest) if ".resnets." in ours else rest)
    side, block, what, number, rest = re.fullmatch(r"(down|up)_blocks\.(\d+)\.(\w+)\.(\d+)\.(.*)", name).groups()
    first = int(block) * (layers + 1) + (side == "down")
    blocks = "input_blocks" if side == "down" else "output_blocks"
    if what == "resnets":
        return f"{blocks}.{first + int(number)}.0.{_resnet(rest)}"
    if what == "attentions":
        return f"{blocks}.{first + int(number)}.1.{rest}"
    if what == "downsamplers":
        return f"{blocks}.{first + layers}.0.op.{rest.removeprefix('conv.')}"
    return f"{blocks}.{first + layers}.{2 if f'up_blocks.{block}' in attending else 1}.{rest}"


def _resnet(rest: str) -> str:
    layer, _, kind = rest.partition(".")
    return f"{RESNET[layer]}.{kind}"


def _of_vae(name: str, blocks: int) -> str:
    name = re.sub(r"down_blocks\.(\d+)\.", r"down.\1.", name)
    name = re.sub(r"up_blocks\.(\d+)\.", lambda found: f"up.{blocks - 1 - int(found[1])}.", name)
    name = re.sub(r"mid_block\.resnets\.(\d+)", lambda found: f"mid.block_{int(found[1]) + 1}", name)
    if "attentions.0" in name:
        for ours, theirs in ATTENTION.items():
            name = name.replace(f".{ours}.", f".{theirs}.")
    name = name.replace("mid_block.attentions.0", "mid.attn_1").replace(".resnets.", ".block.")
    name = name.replace("samplers.0.", "sample.").replace("conv_shortcut", "nin_shortcut")
    return name.replace("conv_norm_out", "norm_out")


def _open_clip(encoder: Tensors, prefix: str) -> Tensors:
    tensors = {}
    for name, tensor in encoder.items():
        if name in OPEN_CLIP_OUTER:
            tensors[prefix + OPEN_CLIP_OUTER[name]] = tensor
        elif name == "text_projection.weight":
            tensors[f"{prefix}text_projection"] = tensor.T
        elif found := re.fullmatch(r"text_model\.encoder\.layers\.(\d+)\.self_attn\.q_proj\.(weight|bias)", name):
            parts = [encoder[name.replace("q_proj", f"{part}_proj")] for part in "qkv"]
            tensors[f"{prefix}transformer.resblocks.{found[1]}.attn.in_proj_{found[2]}"] = torch.cat(parts)
        elif not re.search(r"self_attn\.[kv]_proj", name):
            inner = name.replace("text_model.encoder.layers.", "transformer.resblocks.")
            for ours, theirs in OPEN_CLIP.items():
                inner = inner.replace(ours, theirs)
            tensors[prefix + inner] = tensor
    return tensors
