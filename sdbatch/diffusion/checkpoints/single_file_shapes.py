"""The configurations of a single-file checkpoint's components.

Sizes follow from the shapes in its header; the rest, such as the VAE's scaling factor, from the published models in
`single_file_configs/`. For a published model's file the result is the published configuration.
"""

from __future__ import annotations

import copy
import json
from itertools import count
from pathlib import Path
from typing import Any

from sdbatch.diffusion.checkpoints.single_files import CONV_IN, UNET, VAE, SingleFile
from sdbatch.errors import ModelError

__all__ = ["PREDICTION_TYPES", "Configs", "single_file_configs", "vae_config"]

PUBLISHED = Path(__file__).with_name("single_file_configs")
PREDICTION_TYPES = ("epsilon", "v_prediction")
# Features of an attention head: of CLIP's text encoders, and of the UNets of 2.x and XL.
HEAD = 64
HEADS_OF_SD1 = 8
# By the width of a published text encoder. 2.x does not use the last layer, and files may lack it.
LAYERS = {768: 12, 1024: 23, 1280: 32}
# Values of `modelspec.prediction_type`, which training tools write.
SPECIFIED = {"epsilon": "epsilon", "v": "v_prediction", "v_prediction": "v_prediction"}
INPAINTING = {
    "StableDiffusionPipeline": "StableDiffusionInpaintPipeline",
    "StableDiffusionXLPipeline": "StableDiffusionXLInpaintPipeline",
}
CLIP_PREFIX = {"sd1": "cond_stage_model.transformer.", "sdxl": "conditioner.embedders.0.transformer."}
# The last of the 24 layers of SD 2's text encoder is not used, and not converted.
LAST_OF_SD2 = "cond_stage_model.model.transformer.resblocks.23."

Configs = dict[str, dict[str, Any]]


def single_file_configs(file: SingleFile, prediction_type: str | None = None) -> Configs:
    """The configurations by component, and `model_index`.

    What the UNet predicts is `prediction_type`, else the file's own metadata (`modelspec.prediction_type`), else
    v for an XL file with a tensor `v_pred`, else what the published model of its kind predicts: v for 2.x, as in
    diffusers.

    Raises:
        ModelError: tensors are missing.
    """
    configs: Configs = copy.deepcopy(json.loads((PUBLISHED / f"{file.kind}.json").read_text(encoding="utf-8")))
    configs["unet"] |= _unet(file)
    configs["vae"] |= vae_config(file, VAE)
    if file.kind == "sd2":
        configs["text_encoder"] |= _open_clip(file, "cond_stage_model.model.", "sd2")
    else:
        configs["text_encoder"] |= _clip(file, CLIP_PREFIX[file.kind])
    if file.kind == "sdxl":
        configs["text_encoder_2"] |= _open_clip(file, "conditioner.embedders.1.model.", "sdxl")
        pooled = configs["text_encoder_2"]["projection_dim"]
        added = file.shape(f"{UNET}label_emb.0.0.weight", 2)[1]
        configs["unet"] |= {
            "projection_class_embeddings_input_dim": added,
            "addition_time_embed_dim": (added - pooled) // 6,  # the sizes are six numbers
        }
    is_inpainting = configs["unet"]["in_channels"] == 9
    if is_inpainting:
        configs["model_index"]["_class_name"] = INPAINTING[configs["model_index"]["_class_name"]]
        configs["unet"].pop("upcast_attention", None)  # as published: of 2.x, 2.1 alone has it
    for part in ("", "_2") if file.kind == "sdxl" else ("",):
        configs[f"tokenizer{part}"]["model_max_length"] = configs[f"text_encoder{part}"]["max_position_embeddings"]
    _predict(configs, file, prediction_type, is_inpainting)
    return configs


def _predict(configs: Configs, file: SingleFile, prediction_type: str | None, is_inpainting: bool) -> None:
    scheduler = configs["scheduler"]
    predicted = prediction_type or _specified(file)
    if predicted is None and file.kind == "sdxl" and "v_pred" in file.tensors:
        predicted = "v_prediction"
    if predicted is None and (is_inpainting or (file.kind == "sd2" and file.renamed)):  # SD-Turbo
        predicted = "epsilon"
    scheduler["prediction_type"] = predicted or scheduler["prediction_type"]
    if file.kind == "sdxl" and "ztsnr" in file.tensors:
        scheduler["rescale_betas_zero_snr"] = True
    if file.kind == "sd2" and scheduler["prediction_type"] == "epsilon":
        configs["unet"]["sample_size"], configs["vae"]["sample_size"] = 64, 512


def _specified(file: SingleFile) -> str | None:
    """What the UNet predicts, by the file's metadata."""
    predicted = file.metadata.get("modelspec.prediction_type", "").strip().lower()
    if predicted and predicted not in SPECIFIED:
        raise ModelError(
            f"{file.path}: its metadata says that it predicts {predicted[:40]!r}; sdbatch knows epsilon and v, "
            "which --prediction-type chooses"
        )
    return SPECIFIED.get(predicted)


def _unet(file: SingleFile) -> dict[str, Any]:
    """Layers and widths of a UNet. Its input blocks are a convolution, then of each block layers and a downsampler."""
    blocks = f"{UNET}input_blocks."
    numbers = {name[len(blocks) :].partition(".")[0] for name in file.tensors if name.startswith(blocks)}
    inputs = next(i for i in count() if str(i) not in numbers)
    downsamplers = [i for i in range(inputs) if f"{blocks}{i}.0.op.weight" in file.tensors]
    per_block = (downsamplers[0] if downsamplers else inputs) - 1
    firsts = [1 + (per_block + 1) * block for block in range(len(downsamplers) + 1)]
    widths = [file.shape(f"{blocks}{first}.0.out_layers.3.weight", 4)[0] for first in firsts]
    depths = [file.count(f"{blocks}{first}.1.transformer_blocks.{{}}.norm1.weight") for first in firsts]
    attending = next((first for first, depth in zip(firsts, depths, strict=True) if depth), None)
    if attending is None:
        raise ModelError(f"{file.path}: its UNet attends to no text")
    inside = f"{blocks}{attending}.1."
    config: dict[str, Any] = {
        "in_channels": file.shape(CONV_IN, 4)[1],
        "out_channels": file.shape(f"{UNET}out.2.weight", 4)[0],
        "block_out_channels": widths,
        "layers_per_block": per_block,
        "down_block_types": ["CrossAttnDownBlock2D" if depth else "DownBlock2D" for depth in depths],
        "up_block_types": ["CrossAttnUpBlock2D" if depth else "UpBlock2D" for depth in reversed(depths)],
        "cross_attention_dim": file.shape(f"{inside}transformer_blocks.0.attn2.to_k.weight", 2)[1],
        "use_linear_projection": len(file.shape(f"{inside}proj_in.weight", 2, 4)) == 2,
        "attention_head_dim": HEADS_OF_SD1 if file.kind == "sd1" else [width // HEAD for width in widths],
    }
    if file.kind == "sdxl":
        config["transformer_layers_per_block"] = [max(1, depth) for depth in depths]
    return config


def vae_config(file: SingleFile, prefix: str) -> dict[str, Any]:
    """Layers and widths of the VAE whose tensors' names begin with `prefix`."""
    down = f"{prefix}encoder.down."
    file.shape(f"{down}0.block.0.conv1.weight", 4)
    blocks = file.count(f"{down}{{}}.block.0.conv1.weight")
    return {
        "block_out_channels": [file.shape(f"{down}{block}.block.0.conv1.weight", 4)[0] for block in range(blocks)],
        "down_block_types": ["DownEncoderBlock2D"] * blocks,
        "up_block_types": ["UpDecoderBlock2D"] * blocks,
        "layers_per_block": file.count(f"{down}0.block.{{}}.conv1.weight"),
        "latent_channels": file.shape(f"{prefix}decoder.conv_in.weight", 4)[1],
    }


def _clip(file: SingleFile, prefix: str) -> dict[str, Any]:
    inside = f"{prefix}text_model."
    return _text(
        file,
        words=f"{inside}embeddings.token_embedding.weight",
        positions=f"{inside}embeddings.position_embedding.weight",
        between=f"{inside}encoder.layers.{{}}.mlp.fc1.weight",
    )


def _open_clip(file: SingleFile, prefix: str, kind: str) -> dict[str, Any]:
    config = _text(
        file,
        words=f"{prefix}token_embedding.weight",
        positions=f"{prefix}positional_embedding",
        between=f"{prefix}transformer.resblocks.{{}}.mlp.c_fc.weight",
    )
    if kind == "sd2":
        is_whole = any(name.startswith(LAST_OF_SD2) for name in file.tensors)
        return config | {"num_hidden_layers": config["num_hidden_layers"] - is_whole}
    return config | {"projection_dim": file.shape(f"{prefix}text_projection", 2)[1]}


def _text(file: SingleFile, *, words: str, positions: str, between: str) -> dict[str, Any]:
    vocabulary, width = file.shape(words, 2)
    layers = file.count(between)
    inside = between.partition("{}")[0]
    numbers = {name[len(inside) :].partition(".")[0] for name in file.tensors if name.startswith(inside)}
    if layers < len(numbers):
        raise ModelError(f"{file.path}: its text encoder lacks {between.format(layers)}")
    if layers < LAYERS.get(width, 0):
        raise ModelError(f"{file.path}: its text encoder has {layers} layers; one of this width has {LAYERS[width]}")
    return {
        "vocab_size": vocabulary,
        "hidden_size": width,
        "intermediate_size": file.shape(between.format(0), 2)[0],
        "num_hidden_layers": layers,
        "num_attention_heads": width // HEAD,
        "max_position_embeddings": file.shape(positions, 2)[0],
    }
