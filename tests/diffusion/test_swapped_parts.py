"""Other parts than the model's own: the pictures of a folder, or of diffusers' pipeline, that has them."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path

import flow_checkpoints
import numpy as np
import pytest
import torch
from diffusers import (
    AutoencoderKL,
    AutoencoderTiny,
    FlowMatchEulerDiscreteScheduler,
    StableDiffusionImg2ImgPipeline,
    StableDiffusionXLPipeline,
)
from picture_rows import Pipelines, photo
from references import Reference
from safetensors.torch import load_file, save_file
from single_file_checkpoints import as_single_file, build_original
from transformers import CLIPConfig, CLIPModel, CLIPTextModel, CLIPTextModelWithProjection, CLIPVisionConfig

from sdbatch.diffusion import ModelInfo, inspect_model
from sdbatch.diffusion.engine import Engine
from sdbatch.diffusion.model_coefficients import ModelCoefficients
from sdbatch.diffusion.models.model_identity import different_files, model_files, model_hash
from sdbatch.diffusion.pictures.picture import Picture
from sdbatch.diffusion.request import Request
from sdbatch.diffusion.validation import validate
from sdbatch.errors import ModelError

ROW = Request("a cat", sampler="ddim", steps=2, seed=1, height=64, width=64, guidance_scale=1.0)


@pytest.fixture(autouse=True)
def caches(tmp_path, monkeypatch) -> None:
    for module in ("converted_files", "swapped_parts"):
        monkeypatch.setattr(f"sdbatch.diffusion.models.{module}.CACHE", tmp_path / module)


@pytest.fixture(scope="module")
def models(tmp_path_factory) -> tuple[Path, Path, Path]:
    """A model, the same with another VAE, and that one as a single file."""
    base = tmp_path_factory.mktemp("vaes")
    model = build_original(base / "model", "sd1")
    other = shutil.copytree(model, base / "other")
    vae = AutoencoderKL.from_pretrained(model / "vae")
    vae.decoder.conv_out.weight.data.mul_(0.5)
    vae.save_pretrained(other / "vae")
    return model, other, as_single_file(other, base / "other.safetensors", "sd1")


def picture(model) -> np.ndarray:
    info = model if isinstance(model, ModelInfo) else inspect_model(model)
    # Lanes are counted at the model's own size, which only a folder knows to be a small one.
    (made,) = Engine(dataclasses.replace(info, height=64, width=64), lanes=2, device="cpu", threads=1).generate([ROW])
    return made.pixels


def test_pictures_are_those_of_the_folder_in_which_it_was_replaced(models, tmp_path):
    model, other, file = models
    weights = {name.removeprefix("first_stage_model."): tensor for name, tensor in load_file(file).items()}
    alone = tmp_path / "vae.safetensors"
    parts = ("encoder.", "decoder.", "quant_conv.", "post_quant_conv.")
    save_file({name: tensor for name, tensor in weights.items() if name.startswith(parts)}, alone)
    found = [inspect_model(model, vae=vae) for vae in (other / "vae", other, alone, file)]
    assert model_files(found[0]) == model_files(found[1])
    for info in found:
        assert info.name == "model" and model_hash(info) != model_hash(inspect_model(model))
        assert "vae/" in different_files(model_files(inspect_model(model)), model_files(info))
    expected = picture(other)
    assert not np.array_equal(expected, picture(model))
    for info in (found[0], found[2]):
        assert np.array_equal(picture(info), expected)


def test_a_single_file_with_another_vae_is_another_model(models):
    model, other, file = models
    own = inspect_model(file, tokenizer=model)
    swapped = inspect_model(file, tokenizer=model, vae=model)
    assert model_hash(own) == model_hash(swapped)  # of the checkpoint, as in web UIs
    assert different_files(model_files(own), model_files(swapped)).startswith("vae/")
    assert np.array_equal(picture(swapped), picture(model))
    assert np.array_equal(picture(own), picture(other))


def test_what_is_no_vae_for_it_is_refused(models, tmp_path):
    model, _, _ = models
    AutoencoderTiny(encoder_block_out_channels=(8,), decoder_block_out_channels=(8,), num_encoder_blocks=(1,),
                    num_decoder_blocks=(1,)).save_pretrained(tmp_path / "flat")  # fmt: skip
    wide = shutil.copytree(model / "vae", tmp_path / "wide")
    config = json.loads((wide / "config.json").read_text())
    (wide / "config.json").write_text(json.dumps(config | {"latent_channels": 16}))
    (tmp_path / "old.ckpt").write_bytes(b"PK")
    (tmp_path / "empty").mkdir()
    for vae, reason in (
        (tmp_path / "flat", "a pixel of its latents is 1 pixels wide, but this model needs 8"),
        (model / "unet", "is of class UNet2DConditionModel; sdbatch runs AutoencoderKL and AutoencoderTiny"),
        (wide, "input channels does not match"),
        (model / "vae" / "diffusion_pytorch_model.safetensors", "is in diffusers' layout; name its folder"),
        (model / "unet" / "diffusion_pytorch_model.safetensors", "has no VAE"),
        (tmp_path / "old.ckpt", "is pickled"),
        (tmp_path / "absent.safetensors", "no such file"),
        (tmp_path / "empty", r"has neither config\.json"),
    ):
        with pytest.raises(ModelError, match=reason) as refused:
            inspect_model(model, vae=vae)
        # The folder of links is nothing that the user knows.
        assert "\n" not in str(refused.value) and "swapped_parts" not in str(refused.value)


ROWS = [
    Request("a cat", "blurry", seed=1, sampler="ddim", steps=4, guidance_scale=5.0),
    Request("a red house", seed=2, sampler="euler", steps=6, guidance_scale=1.0, height=96, width=64),
]


def assert_near(info: ModelInfo, reference: Reference, requests=ROWS) -> None:
    images = list(Engine(info, lanes=4, device="cpu", threads=1).generate(requests))
    assert max(reference.deviations(images).values()) <= 2
    assert all(image.pixels.std() > 10 for image in images)


def taesd(folder: Path) -> AutoencoderTiny:
    torch.manual_seed(3)
    vae = AutoencoderTiny(encoder_block_out_channels=(8,) * 4, decoder_block_out_channels=(8,) * 4).eval()
    with torch.no_grad():
        list(vae.decoder.parameters())[-2].mul_(40.0)
    vae.save_pretrained(folder)
    return vae


@pytest.mark.parametrize("kind", ["sd", "sdxl"])
def test_taesd_is_that_of_the_pipeline(request, tmp_path, kind):
    model, vae = request.getfixturevalue(kind), taesd(tmp_path / "taesd")
    info = inspect_model(model, vae=tmp_path / "taesd")
    assert info.approximate_vae and not inspect_model(model).approximate_vae
    reference = Reference(model, *([StableDiffusionXLPipeline] if kind == "sdxl" else []))
    reference.pipeline.register_modules(vae=vae)
    assert_near(info, reference)


def test_taesd_encodes_pictures_as_in_the_pipeline(sd, tmp_path):
    vae = taesd(tmp_path / "taesd")
    extra = {"image": Picture(photo(64, 64, 1)), "strength": 0.7}
    row = Request("a cat", seed=4, sampler="euler_a", steps=5, task="image-to-image", extra=extra)
    (made,) = Engine(inspect_model(sd, vae=tmp_path / "taesd"), lanes=2, device="cpu", threads=1).generate([row])
    pipelines = Pipelines(sd, {"image-to-image": StableDiffusionImg2ImgPipeline})
    pipelines._pipelines["image-to-image"].register_modules(vae=vae)
    assert np.abs(made.pixels.astype(int) - pipelines.pixels(row).astype(int)).max() <= 2


def fine_tuned(encoder: Path, cls: type) -> CLIPTextModel | CLIPTextModelWithProjection:
    found = cls.from_pretrained(encoder)
    with torch.no_grad():
        for parameter in found.parameters():
            parameter.mul_(1.2)
    return found.eval()


def test_text_encoders_are_those_of_the_pipeline(sd, sdxl, tmp_path):
    encoder = fine_tuned(sd / "text_encoder", CLIPTextModel)
    encoder.save_pretrained(tmp_path / "clip")
    info = inspect_model(sd, text_encoders={"text_encoder": tmp_path / "clip"})
    assert different_files(model_files(inspect_model(sd)), model_files(info)) == "text_encoder/model.safetensors"
    reference = Reference(sd)
    reference.pipeline.register_modules(text_encoder=encoder)
    assert_near(info, reference)

    second = fine_tuned(sdxl / "text_encoder_2", CLIPTextModelWithProjection)
    second.save_pretrained(tmp_path / "model" / "text_encoder_2")
    shutil.copytree(sdxl / "tokenizer_2", tmp_path / "model" / "tokenizer_2")
    info = inspect_model(sdxl, text_encoders={"text_encoder_2": tmp_path / "model"})
    assert (info.folder / "tokenizer_2").resolve() == tmp_path / "model" / "tokenizer_2"
    reference = Reference(sdxl, StableDiffusionXLPipeline)
    reference.pipeline.register_modules(text_encoder_2=second)
    assert_near(info, reference)


def test_of_a_whole_clip_the_text_encoder_is_used(sd, tmp_path):
    encoder = fine_tuned(sd / "text_encoder", CLIPTextModel)
    vision = CLIPVisionConfig(hidden_size=8, intermediate_size=8, num_hidden_layers=1, num_attention_heads=1,
                              image_size=8, patch_size=8)  # fmt: skip
    whole = CLIPModel(
        CLIPConfig(text_config=encoder.config.to_dict(), vision_config=vision.to_dict(), projection_dim=8)
    )
    whole.text_model.load_state_dict(getattr(encoder, "text_model", encoder).state_dict())
    whole.save_pretrained(tmp_path / "whole")
    encoder.save_pretrained(tmp_path / "alone")
    made = [picture(inspect_model(sd, text_encoders={"text_encoder": tmp_path / name})) for name in ("whole", "alone")]
    assert np.array_equal(*made) and not np.array_equal(made[0], picture(sd))


def test_what_is_no_text_encoder_for_it_is_refused(sd, sdxl, models, tmp_path):
    changed = json.loads((sd / "text_encoder" / "config.json").read_text())
    for name, change in (("wide", {"hidden_size": 64}), ("deep", {"num_hidden_layers": 4}), ("few", {"vocab_size": 9})):
        shutil.copytree(sd / "text_encoder", tmp_path / name)
        (tmp_path / name / "config.json").write_text(json.dumps(changed | change))
    for model, name, place, reason in (
        (sd, "text_encoder", tmp_path / "wide", "its hidden_size is 64, but this model needs 32"),
        (sd, "text_encoder", tmp_path / "deep", "its num_hidden_layers is 4, but this model needs 3"),
        (sd, "text_encoder", tmp_path / "few", "has 9 tokens, but its tokenizer's vocabulary"),
        (sd, "text_encoder_2", sd, "Stable Diffusion 1.x and 2.x has the CLIP text encoders text_encoder; other"),
        (sdxl, "text_encoder_2", sd / "text_encoder", "is of class CLIPTextModel; sdbatch runs CLIPTextModelWithProj"),
        (sd, "text_encoder", sd / "unet", "is of class UNet2DConditionModel; sdbatch runs"),
        (sd, "text_encoder", models[2], "is a file; expected a folder"),
        (sd, "text_encoder", "./absent", "no such folder"),
        (sd, "text_encoder", tmp_path, "has neither config.json nor text_encoder/config.json"),
    ):
        with pytest.raises(ModelError, match=reason) as refused:
            inspect_model(model, text_encoders={name: place})
        assert str(refused.value).startswith(f"--text-encoder {name}={place}: ")


def test_entries_of_the_scheduler_are_those_of_the_pipeline(sd):
    entries = {"timestep_spacing": "trailing", "beta_end": "0.02", "prediction_type": "v_prediction"}
    info = inspect_model(sd, scheduler_config=entries)
    assert info.prediction_type == "v_prediction" and info.scheduler_config["beta_end"] == 0.02
    assert different_files(model_files(inspect_model(sd)), model_files(info)) == "scheduler/scheduler_config.json"
    reference = Reference(sd)
    reference.config |= {"timestep_spacing": "trailing", "beta_end": 0.02, "prediction_type": "v_prediction"}
    assert_near(info, reference)


def test_the_shift_of_flow_models(tmp_path):
    model = flow_checkpoints.build_sd3(tmp_path / "sd3")
    row = Request("a cat", sampler="flow_euler", steps=4)
    for name in ("shift", "flow_shift"):
        info = inspect_model(model, scheduler_config={name: "5"})
        scheduler = FlowMatchEulerDiscreteScheduler(shift=5.0)
        scheduler.set_timesteps(4)
        timesteps = ModelCoefficients.of(info).of_row(row).timesteps
        assert np.allclose(timesteps, scheduler.timesteps) and validate(row, info) is None
    flux = flow_checkpoints.build_flux(tmp_path / "dev")
    for folder, entries, reason in (
        (flux, {"shift": 3}, "shift=3: has an effect only if use_dynamic_shifting is false"),
        (model, {"max_shift": 1.2}, "max_shift=1.2: has an effect only if use_dynamic_shifting is true"),
        (model, {"shift": 3, "flow_shift": 4}, "two names of one entry"),
        (model, {"invert_sigmas": True}, "--scheduler-config invert_sigmas=true.*: inverted sigmas"),
    ):
        with pytest.raises(ModelError, match=reason):
            inspect_model(folder, scheduler_config=entries)
    assert inspect_model(flux, scheduler_config={"shift": 3, "use_dynamic_shifting": False})


def test_entries_without_effect_are_refused(sd):
    for entries, reason in (
        ({"timestep_spacng": "trailing"}, "no scheduler of this model has this entry; did you mean timestep_spacing"),
        ({"use_karras_sigmas": "maybe"}, "use_karras_sigmas=maybe: expected true or false, or null"),
        ({"steps_offset": "0"}, "steps_offset=0: the model's pipeline sets it itself"),
        ({"clip_sample": "true"}, "no sampler of sdbatch limits samples"),
        ({"shift": "3"}, "no scheduler of this model"),
    ):
        with pytest.raises(ModelError, match=reason):
            inspect_model(sd, scheduler_config=entries)
    for sampler, entries, reason in (
        ("ddim", {"use_karras_sigmas": "true"}, "sampler ddim does not use use_karras_sigmas"),
        ("euler_karras", {"use_karras_sigmas": "False"}, "sampler euler_karras has use_karras_sigmas true"),
        ("euler", {"use_karras_sigmas": "true", "use_beta_sigmas": "true"}, "Only one of"),
        ("euler", {"use_karras_sigmas": "true"}, None),
    ):
        refused = validate(Request("a cat", sampler=sampler), inspect_model(sd, scheduler_config=entries))
        assert (refused is None) if reason is None else (reason in refused)
