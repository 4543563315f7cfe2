"""Requirements on a model folder; anything else is refused before weights are read."""

from __future__ import annotations

import json
import shutil

import checkpoints
import pytest

from sdbatch.diffusion.engine import Engine
from sdbatch.diffusion.models.inspection import inspect_model
from sdbatch.diffusion.models.model_identity import model_hash
from sdbatch.diffusion.request import Request
from sdbatch.errors import ModelError


def copy(folder, tmp_path):
    return shutil.copytree(folder, tmp_path / "copy")


def edit(path, **changes):
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def test_a_folder_tells_what_it_is(sd, sd_v, sdxl):
    info = inspect_model(sd)
    assert (info.name, info.family, info.prediction_type) == ("sd", "sd", "epsilon")
    assert (info.height, info.width, info.size_multiple, info.max_tokens) == (64, 64, 8, checkpoints.CONTEXT)
    assert inspect_model(sd_v).prediction_type == "v_prediction"
    assert inspect_model(str(sdxl)).family == "sdxl"


def test_the_hash_is_of_the_weights(sd, sd_v, tmp_path):
    moved = copy(sd, tmp_path)
    edit(moved / "scheduler" / "scheduler_config.json", prediction_type="sample")
    assert model_hash(inspect_model(moved)) == model_hash(inspect_model(sd))
    weights = moved / "unet" / "diffusion_pytorch_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"\x01")
    assert model_hash(inspect_model(moved)) != model_hash(inspect_model(sd))
    assert len(model_hash(inspect_model(sd))) == 64


@pytest.mark.parametrize(
    ("part", "changes", "reason"),
    [
        (
            "model_index.json",
            {"_class_name": "AuraFlowPipeline"},
            "AuraFlowPipeline is not.*no family has been written for it yet",
        ),
        ("model_index.json", {"_class_name": "StableDiffusionLatentUpscalePipeline"}, "is not a pipeline"),
        ("model_index.json", {"vae": ["diffusers", "VQModel"]}, "its vae is a VQModel"),
        ("model_index.json", {"text_encoder": [None, None]}, "names no text_encoder"),
        ("unet/config.json", {"in_channels": 9}, "inpainting"),
        ("unet/config.json", {"out_channels": 8}, "predicts its variance"),
        ("unet/config.json", {"class_embed_type": "timestep"}, "class_embed_type"),
        ("unet/config.json", {"addition_embed_type": "image"}, "addition_embed_type"),
    ],
)
def test_what_it_can_not_run_is_named(sd, tmp_path, part, changes, reason):
    folder = copy(sd, tmp_path)
    edit(folder / part, **changes)
    with pytest.raises(ModelError, match=reason):
        inspect_model(folder)


def test_pickled_weights_are_refused(sd, tmp_path):
    folder = copy(sd, tmp_path)
    weights = folder / "unet" / "diffusion_pytorch_model.safetensors"
    weights.rename(weights.with_suffix(".bin"))
    with pytest.raises(ModelError, match=r"unet are pickled.*safetensors only"):
        inspect_model(folder)


def test_broken_folders_are_told_from_good_ones(sd, tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(ModelError, match=r"model_index\.json is missing"):
        inspect_model(tmp_path / "empty")
    folder = copy(sd, tmp_path)
    (folder / "unet" / "config.json").write_text("{")
    with pytest.raises(ModelError, match="JSON"):
        inspect_model(folder)
    shutil.copy(sd / "unet" / "config.json", folder / "unet" / "config.json")
    (folder / "unet" / "diffusion_pytorch_model.safetensors").write_bytes(b"not what it says")
    with pytest.raises(ModelError, match="not a complete safetensors file"):
        inspect_model(folder)


def test_weights_of_a_variant(sd, tmp_path):
    folder = copy(sd, tmp_path)
    for weights in folder.rglob("*.safetensors"):
        weights.rename(weights.with_suffix(".fp16.safetensors"))
    assert inspect_model(folder).variant == inspect_model(folder, variant="fp16").variant == "fp16"
    with pytest.raises(ModelError, match="variant 'bf16'"):
        inspect_model(folder, variant="bf16")
    (image,) = Engine(folder, lanes=2).generate([Request("a cat", steps=2)])
    (same,) = Engine(sd, lanes=2).generate([Request("a cat", steps=2)])
    assert (image.pixels == same.pixels).all()
