"""Weights are loaded whole or refused: none missing, none left over, none of another shape, none quantised."""

from __future__ import annotations

import json
import os
import re
import shutil
from pathlib import Path

import pytest
import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from safetensors.torch import load_file, save_file
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

from sdbatch.diffusion.engine import Engine
from sdbatch.diffusion.models.inspection import inspect_model
from sdbatch.diffusion.models.loading import _check_report
from sdbatch.diffusion.request import Request
from sdbatch.errors import ModelError

FILES = {
    "unet": "diffusion_pytorch_model.safetensors",
    "vae": "diffusion_pytorch_model.safetensors",
    "text_encoder": "model.safetensors",
}
OLD_NAMES = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}
REQUEST = Request("a cat", steps=2, sampler="ddim")


@pytest.fixture
def model(sd, tmp_path) -> Path:
    return shutil.copytree(sd, tmp_path / "model")


def rewrite(model: Path, part: str, change) -> None:
    path = model / part / FILES[part]
    tensors = load_file(path)
    tensors = change(tensors) or tensors
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, path, metadata={"format": "pt"})


def pixels(model: Path) -> bytes:
    (image,) = Engine(model, lanes=2).generate([REQUEST])
    return image.pixels.tobytes()


def without_one(tensors):
    tensors.pop(sorted(tensors)[5])


def with_one_more(tensors):
    tensors["stray.weight"] = torch.ones(2)


def with_another_shape(tensors):
    name = sorted(tensors)[5]
    tensors[name] = torch.ones(3, 5)


def with_another_prefix(tensors):
    return {f"other.{name}": tensor for name, tensor in tensors.items()}


@pytest.mark.parametrize("part", FILES)
@pytest.mark.parametrize("change", [without_one, with_one_more, with_another_shape, with_another_prefix])
def test_what_does_not_fit_the_network_is_refused_by_name(model, part, change):
    before = set(load_file(model / part / FILES[part]))
    rewrite(model, part, change)
    with pytest.raises(ModelError) as refused:
        Engine(model, lanes=2)
    message = str(refused.value)
    named = {"stray.weight"} | {sorted(before)[5]} | {f"other.{name}" for name in before} | before
    assert f" {part} can't be loaded" in message and "\n" not in message
    assert any(name in message for name in named), message


@pytest.mark.parametrize("dtype", [torch.int8, torch.uint8, torch.bool, torch.float8_e4m3fn])
def test_quantised_weights_are_refused_before_anything_is_loaded(model, dtype):
    rewrite(model, "unet", lambda tensors: {name: tensor.to(dtype) for name, tensor in tensors.items()})
    with pytest.raises(ModelError, match=r"unet.* holds .*not quantised"):
        inspect_model(model)


def test_old_names_of_attention_and_of_text_encoders_load_as_the_same_model(model, sd):
    def old_attention(tensors):
        for new, old in OLD_NAMES.items():
            tensors = {
                name.replace(f"attentions.0.{new}.", f"attentions.0.{old}."): tensor for name, tensor in tensors.items()
            }
        assert any("attentions.0.proj_attn.weight" in name for name in tensors)
        return tensors

    def old_text_encoder(tensors):
        tensors = {f"text_model.{name.removeprefix('text_model.')}": tensor for name, tensor in tensors.items()}
        tensors["text_model.embeddings.position_ids"] = torch.arange(24)[None]
        return tensors

    rewrite(model, "vae", old_attention)
    rewrite(model, "text_encoder", old_text_encoder)
    assert pixels(model) == pixels(sd)


def shard(model: Path, part: str) -> Path:
    """The weights of a component in two files and an index; returns the index."""
    path = model / part / FILES[part]
    tensors, stem = load_file(path), path.name.removesuffix(".safetensors")
    names = sorted(tensors)
    places = {}
    for number, chosen in enumerate((names[::2], names[1::2]), 1):
        file = f"{stem}-0000{number}-of-00002.safetensors"
        save_file({name: tensors[name] for name in chosen}, path.with_name(file), metadata={"format": "pt"})
        places |= dict.fromkeys(chosen, file)
    path.unlink()
    index = path.with_name(path.name + ".index.json")
    index.write_text(json.dumps({"metadata": {"total_size": 1}, "weight_map": places}))
    return index


def test_weights_in_several_files_are_those_that_the_index_names(model, sd):
    indices = [shard(model, part) for part in FILES]
    assert len([name for weights in inspect_model(model).weights for name in weights.files]) == 6
    assert pixels(model) == pixels(sd)
    index = json.loads(indices[0].read_text())
    key = next(iter(index["weight_map"]))
    index["weight_map"]["made.up"] = index["weight_map"][key]
    indices[0].write_text(json.dumps(index))
    with pytest.raises(ModelError, match=r"lacks made\.up"):
        inspect_model(model)
    index["weight_map"]["made.up"] = "diffusion_pytorch_model-00003-of-00003.safetensors"
    indices[0].write_text(json.dumps(index))
    with pytest.raises(ModelError, match=r"diffusion_pytorch_model-00003-of-00003.safetensors is missing"):
        inspect_model(model)


def test_a_variant_is_taken_where_a_component_has_it(model, sd):
    for part in ("unet", "vae"):
        path = model / part / FILES[part]
        path.rename(path.with_suffix(".fp16.safetensors"))
    for variant in (None, "fp16"):
        info = inspect_model(model, variant=variant)
        assert {w.part: w.variant for w in info.weights} == {"unet": "fp16", "vae": "fp16", "text_encoder": None}
    assert pixels(model) == pixels(sd)


def replace_by(kind: str, path: Path) -> None:
    whole = path.read_bytes()
    path.unlink()
    if kind == "folder":
        path.mkdir()
    elif kind == "pipe":
        os.mkfifo(path)
    elif kind in ("/dev/zero", "nowhere"):
        path.symlink_to(kind)
    else:
        path.write_bytes({"empty": b"", "cut": whole[: len(whole) // 2], "long header": b"\xff" * 64}[kind])


@pytest.mark.parametrize("kind", ["folder", "pipe", "/dev/zero", "nowhere", "empty", "cut", "long header"])
@pytest.mark.parametrize("name", ["unet/diffusion_pytorch_model.safetensors", "vae/config.json"])
def test_what_is_no_whole_file_is_refused_at_once(model, kind, name):
    replace_by(kind, model / name)
    with pytest.raises(ModelError, match=re.escape(Path(name).parts[0])) as refused:
        inspect_model(model)
    assert "\n" not in str(refused.value)


# Names of tensors follow from the depth of a network and from where its width changes, so narrow ones have those of
# the real checkpoints.
NARROW = {"block_out_channels": (32, 64, 128, 128), "cross_attention_dim": 8, "attention_head_dim": 8}
SDXL = {
    "block_out_channels": (32, 64, 128),
    "cross_attention_dim": 8,
    "attention_head_dim": 8,
    "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
    "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
    "transformer_layers_per_block": (1, 2, 10),
    "use_linear_projection": True,
    "addition_embed_type": "text_time",
    "addition_time_embed_dim": 8,
    "projection_class_embeddings_input_dim": 56,
}
VAE = {
    "block_out_channels": (32, 64, 128, 128),
    "down_block_types": ("DownEncoderBlock2D",) * 4,
    "up_block_types": ("UpDecoderBlock2D",) * 4,
    "layers_per_block": 2,
}


def clip(layers: int) -> CLIPTextConfig:
    return CLIPTextConfig(
        hidden_size=8, intermediate_size=8, num_hidden_layers=layers, num_attention_heads=2, vocab_size=99
    )


@pytest.mark.parametrize(
    ("make", "count", "old"),
    [
        (lambda: UNet2DConditionModel(**NARROW), 686, {}),  # Stable Diffusion 1.5
        (lambda: UNet2DConditionModel(**NARROW, use_linear_projection=True), 686, {}),  # 2.1
        (lambda: UNet2DConditionModel(**SDXL), 1680, {}),
        (lambda: AutoencoderKL(**VAE), 248, OLD_NAMES),
        (lambda: CLIPTextModel(clip(12)), 196, {}),  # 1.5, and SDXL's first
        (lambda: CLIPTextModel(clip(23)), 372, {}),  # 2.1
        (lambda: CLIPTextModelWithProjection(clip(32)), 517, {}),  # SDXL's second
    ],
    ids=["unet-1.5", "unet-2.1", "unet-xl", "vae", "text-1.5", "text-2.1", "text-xl-2"],
)
def test_the_tensors_of_real_checkpoints_load_without_a_complaint(make, count, old, tmp_path):
    module = make()
    tensors = module.state_dict()
    assert len(tensors) == count
    module.save_pretrained(tmp_path)
    (path,) = tmp_path.glob("*.safetensors")
    for new, name in old.items():
        tensors = {key.replace(f"attentions.0.{new}.", f"attentions.0.{name}."): t for key, t in tensors.items()}
    if isinstance(module, CLIPTextModel | CLIPTextModelWithProjection):
        tensors = {
            key if key.startswith("text_projection") else f"text_model.{key.removeprefix('text_model.')}": tensor
            for key, tensor in tensors.items()
        }
        tensors["text_model.embeddings.position_ids"] = torch.arange(77)[None]
    save_file(tensors, path, metadata={"format": "pt"})
    loaded, report = type(module).from_pretrained(tmp_path, output_loading_info=True, use_safetensors=True)
    _check_report(loaded, report)
    same = loaded.state_dict()
    assert all(torch.equal(tensor, same[name]) for name, tensor in module.state_dict().items())
