"""Another VAE than the model's own: the pictures of a folder in which it was replaced."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from diffusers import AutoencoderKL, AutoencoderTiny
from safetensors.torch import load_file, save_file
from single_file_checkpoints import as_single_file, build_original

from sdbatch.diffusion import ModelInfo, inspect_model
from sdbatch.diffusion.engine import Engine
from sdbatch.diffusion.models.model_identity import different_files, model_files, model_hash
from sdbatch.diffusion.request import Request
from sdbatch.errors import ModelError

ROW = Request("a cat", sampler="ddim", steps=2, seed=1, height=64, width=64, guidance_scale=1.0)


@pytest.fixture(autouse=True)
def caches(tmp_path, monkeypatch) -> None:
    for module in ("converted_files", "swapped_vae"):
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
                    num_decoder_blocks=(1,)).save_pretrained(tmp_path / "tiny")  # fmt: skip
    wide = shutil.copytree(model / "vae", tmp_path / "wide")
    config = json.loads((wide / "config.json").read_text())
    (wide / "config.json").write_text(json.dumps(config | {"latent_channels": 16}))
    (tmp_path / "old.ckpt").write_bytes(b"PK")
    (tmp_path / "empty").mkdir()
    for vae, reason in (
        (tmp_path / "tiny", "is a AutoencoderTiny; sdbatch runs AutoencoderKL"),
        (wide, "input channels does not match"),
        (model / "vae" / "diffusion_pytorch_model.safetensors", "is in diffusers' layout; name its folder"),
        (model / "unet" / "diffusion_pytorch_model.safetensors", "holds no VAE"),
        (tmp_path / "old.ckpt", "is pickled"),
        (tmp_path / "absent.safetensors", "no such file or folder"),
        (tmp_path / "empty", r"holds neither config\.json"),
    ):
        with pytest.raises(ModelError, match=reason) as refused:
            inspect_model(model, vae=vae)
        assert "\n" not in str(refused.value)
