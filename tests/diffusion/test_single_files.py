"""Single-file checkpoints: pictures are those of diffusers, and other files are refused by their headers."""

from __future__ import annotations

import dataclasses
import gzip
import json
import subprocess
import sys
from pathlib import Path

import diffusers
import numpy as np
import pytest
import torch
from diffusers.loaders.single_file_utils import create_unet_diffusers_config_from_ldm, infer_diffusers_model_type
from references import Reference
from safetensors.torch import load_file, save_file
from single_file_checkpoints import PIPELINES, UNET, as_single_file, build_original, original, texts
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

from sdbatch.diffusion import ModelInfo, inspect_model
from sdbatch.diffusion.checkpoints.clip_vocabulary import find_vocabularies
from sdbatch.diffusion.checkpoints.single_file_shapes import PUBLISHED, single_file_configs
from sdbatch.diffusion.checkpoints.single_files import SingleFile
from sdbatch.diffusion.checkpoints.weights import Tensor
from sdbatch.diffusion.engine import Engine
from sdbatch.diffusion.request import Request
from sdbatch.errors import ModelError
from tests.conftest import REPOSITORY

KINDS = {"sd1": "epsilon", "sd2": "v_prediction", "sdxl": "epsilon"}
ROWS = [
    Request("a cat", negative_prompt="red", sampler="ddim", steps=2, seed=1, height=64, width=64, guidance_scale=5.0),
    Request("red", sampler="euler", steps=3, seed=2, height=64, width=64, guidance_scale=1.0),
]


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch) -> Path:
    monkeypatch.setattr("sdbatch.diffusion.models.converted_files.CACHE", tmp_path / "cache")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    return tmp_path / "cache"


@pytest.fixture(scope="module")
def models(tmp_path_factory) -> dict[str, tuple[Path, Path]]:
    """Folders, and the files with the same weights."""
    base = tmp_path_factory.mktemp("single")
    made = {}
    for kind, prediction_type in KINDS.items():
        folder = build_original(base / kind, kind, prediction_type=prediction_type)
        made[kind] = folder, as_single_file(folder, base / f"{kind}.safetensors", kind)
    return made


def pictures(info: ModelInfo) -> list[np.ndarray]:
    # Lanes are counted at the model's own size, which only the folder knows to be a small one.
    made = Engine(dataclasses.replace(info, height=64, width=64), lanes=4, device="cpu", threads=1).generate(ROWS)
    return [image.pixels for image in sorted(made, key=lambda image: image.index)]


@pytest.mark.parametrize("kind", KINDS)
def test_pictures_are_those_of_the_folder_and_of_diffusers(models, kind):
    folder, file = models[kind]
    info = inspect_model(file, tokenizer=folder)
    assert (info.name, info.prediction_type) == (kind, KINDS[kind])
    made = pictures(info)
    for ours, theirs in zip(made, pictures(inspect_model(folder)), strict=True):
        assert np.array_equal(ours, theirs)
    # diffusers, offline, with the configurations that came of the header.
    cls = PIPELINES[kind, 4]
    reference = Reference(folder, cls)
    reference.pipeline = cls.from_single_file(str(file), config=str(info.folder), local_files_only=True)
    reference.pipeline.set_progress_bar_config(disable=True)
    reference.config = dict(reference.pipeline.scheduler.config)
    for row, ours in zip(ROWS, made, strict=True):
        assert np.abs(ours.astype(int) - reference.pixels(row).astype(int)).max() <= 2


@pytest.mark.parametrize("kind", KINDS)
def test_inpainting_checkpoints_are_told_by_their_channels(tmp_path, kind):
    folder = build_original(tmp_path / "model", kind, in_channels=9)
    file = as_single_file(folder, tmp_path / "file.safetensors", kind)
    info = inspect_model(file, tokenizer=folder)
    assert info.pipeline == PIPELINES[kind, 9].__name__
    assert (info.tasks, info.prediction_type) == (("inpainting",), "epsilon")


def test_halves_stay_halves_and_mixed_components_keep_their_numbers(models, tmp_path):
    folder, file = models["sd1"]
    mixed = {
        name: tensor.half() if name.startswith(UNET) and tensor.is_floating_point() else tensor
        for name, tensor in load_file(file).items()
    }
    save_file(mixed, tmp_path / "mixed.safetensors")
    info = inspect_model(tmp_path / "mixed.safetensors", tokenizer=folder)
    unet = load_file(info.folder / "unet" / "diffusion_pytorch_model.safetensors")
    vae = load_file(info.folder / "vae" / "diffusion_pytorch_model.safetensors")
    assert {tensor.dtype for tensor in unet.values()} == {torch.float16}
    assert {tensor.dtype for tensor in vae.values()} == {torch.float32}
    assert torch.equal(unet["conv_in.weight"], mixed[f"{UNET}input_blocks.0.0.weight"])


OLD_NAMES = {
    "sd1": ("cond_stage_model.transformer.text_model.", "cond_stage_model.transformer.", "epsilon"),
    "sd2": ("cond_stage_model.", "conditioner.embedders.0.", "epsilon"),  # SD-Turbo's, whose UNet predicts noise
}


@pytest.mark.parametrize("kind", OLD_NAMES)
def test_names_that_automatic1111_replaces(models, tmp_path, kind):
    folder, file = models[kind]
    usual, old, prediction_type = OLD_NAMES[kind]
    renamed = {name.replace(usual, old): tensor for name, tensor in load_file(file).items()}
    save_file(renamed, tmp_path / "old.safetensors")
    info = inspect_model(tmp_path / "old.safetensors", tokenizer=folder)
    assert info.prediction_type == prediction_type
    assert not list(info.folder.glob("*.safetensors"))
    expected = inspect_model(file, tokenizer=folder, prediction_type=prediction_type)
    for ours, theirs in zip(pictures(info), pictures(expected), strict=True):
        assert np.array_equal(ours, theirs)


def test_a_file_with_a_part_of_its_text_encoder_is_refused(models, tmp_path):
    folder, file = models["sd1"]
    tensors = load_file(file)
    gap = {name: tensor for name, tensor in tensors.items() if ".encoder.layers.1." not in name}
    save_file(gap, tmp_path / "gap.safetensors")
    with pytest.raises(ModelError, match=r"its text encoder lacks .*encoder\.layers\.1\.mlp\.fc1\.weight"):
        inspect_model(tmp_path / "gap.safetensors", tokenizer=folder)
    with torch.device("meta"):
        config = json.loads((PUBLISHED / "sd1.json").read_text())["text_encoder"] | {"num_hidden_layers": 6}
        half = texts("sd1", [CLIPTextModel(CLIPTextConfig(**config)).state_dict()])
    shapes = {name: Tensor("F16", tuple(tensor.shape)) for name, tensor in (tensors | half).items()}
    with pytest.raises(ModelError, match="its text encoder has 6 layers; one of this width has 12"):
        single_file_configs(SingleFile(Path("x.safetensors"), "sd1", shapes, {}))


def test_what_the_metadata_says_is_used_or_refused(models, tmp_path):
    folder, file = models["sd1"]
    for said, expected in (("v", "v_prediction"), ("epsilon", "epsilon"), ("", "epsilon")):
        save_file(load_file(file), tmp_path / "x.safetensors", {"modelspec.prediction_type": said})
        assert inspect_model(tmp_path / "x.safetensors", tokenizer=folder).prediction_type == expected
    save_file(load_file(file), tmp_path / "x.safetensors", {"modelspec.prediction_type": "edm"})
    with pytest.raises(ModelError, match=r"its metadata says that it predicts 'edm'.*--prediction-type"):
        inspect_model(tmp_path / "x.safetensors", tokenizer=folder)
    info = inspect_model(tmp_path / "x.safetensors", tokenizer=folder, prediction_type="v_prediction")
    assert info.prediction_type == "v_prediction"


ONE = torch.zeros(1)
CONV = "model.diffusion_model.input_blocks.0.0.weight"
UNET_SHAPES = {
    CONV: (1, 4, 1, 1),
    f"{UNET}input_blocks.1.0.out_layers.3.weight": (64, 1, 1, 1),
    f"{UNET}input_blocks.1.1.transformer_blocks.0.norm1.weight": (1,),
    f"{UNET}input_blocks.1.1.transformer_blocks.0.attn2.to_k.weight": (1, 1),
    f"{UNET}input_blocks.1.1.proj_in.weight": (1, 1),
    f"{UNET}out.2.weight": (4, 1, 1, 1),
}
FOREIGN = {
    "is a LoRA": {"lora_unet_down_blocks_0.lora_down.weight": ONE},
    "is a textual inversion embedding": {"emb_params": ONE},
    "is a ControlNet": {"control_model.time_embed.0.weight": ONE},
    "is a FLUX model": {"model.diffusion_model.double_blocks.0.img_attn.norm.key_norm.scale": ONE},
    "is Stable Diffusion 3": {"model.diffusion_model.joint_blocks.0.x_block.attn.qkv.weight": ONE},
    "is one component": {"down_blocks.0.resnets.0.conv1.weight": ONE},
    "has only averaged weights": {
        "model_ema.diffusion_modelout0bias": ONE,
        "first_stage_model.decoder.conv_in.weight": ONE,
    },
    "has no tensors": {},
    "is a VAE": {"decoder.conv_in.weight": ONE, "encoder.conv_in.weight": ONE},
    "is not a Stable Diffusion checkpoint": {"weight": ONE},
    r"8 input channels \(editing by instruction\)": {CONV: torch.zeros(1, 8, 1, 1)},
    "has no text encoder": {CONV: torch.zeros(1, 4, 1, 1)},
    "SDXL refiner": {
        CONV: torch.zeros(1, 4, 1, 1),
        "conditioner.embedders.0.model.text_projection": ONE,
    },
    "has no VAE": {
        CONV: torch.zeros(1, 4, 1, 1),
        "cond_stage_model.model.token_embedding.weight": ONE,
    },
    "holds F8_E4M3; sdbatch reads": {
        CONV: torch.zeros(1, 4, 1, 1, dtype=torch.float8_e4m3fn),
        "cond_stage_model.model.token_embedding.weight": ONE,
        "first_stage_model.decoder.conv_in.weight": ONE,
    },
    r"lacks first_stage_model\.encoder\.down\.0\.block\.0\.conv1": {
        **{name: torch.zeros(shape) for name, shape in UNET_SHAPES.items()},
        "cond_stage_model.model.token_embedding.weight": ONE,
        "first_stage_model.decoder.conv_in.weight": ONE,
    },
    "lacks model.diffusion_model.input_blocks": {
        CONV: torch.zeros(1, 4, 1, 1),
        "cond_stage_model.model.token_embedding.weight": ONE,
        "first_stage_model.decoder.conv_in.weight": ONE,
    },
}


@pytest.mark.parametrize("reason", FOREIGN)
def test_what_is_no_such_checkpoint_is_refused_by_its_header(tmp_path, reason):
    tensors = {name: tensor.clone() for name, tensor in FOREIGN[reason].items()}
    save_file(tensors, tmp_path / "x.safetensors")
    with pytest.raises(ModelError, match=rf"x\.safetensors: .*{reason}") as refused:
        inspect_model(tmp_path / "x.safetensors")
    assert "\n" not in str(refused.value)


def test_pickles_damaged_and_absent_files_are_refused(models, tmp_path):
    (tmp_path / "old.ckpt").write_bytes(b"PK")
    with pytest.raises(ModelError, match="is pickled"):
        inspect_model(tmp_path / "old.ckpt")
    (tmp_path / "cut.safetensors").write_bytes(models["sd1"][1].read_bytes()[:-100])
    with pytest.raises(ModelError, match="not a complete safetensors file"):
        inspect_model(tmp_path / "cut.safetensors")
    with pytest.raises(ModelError, match="no such file"):
        inspect_model(tmp_path / "absent.safetensors")
    with pytest.raises(ModelError, match="'org/model': no such folder, and as a hub id"):
        inspect_model("org/model/sub/x.safetensors")


def test_missing_and_unused_tensors_are_told(models, tmp_path):
    folder, file = models["sd1"]
    tensors = load_file(file)
    less = {name: tensor for name, tensor in tensors.items() if name != f"{UNET}out.0.weight"}
    for name, changed, reason in (
        ("less", less, "tensors of its UNet, its VAE or a text encoder are missing"),
        ("more", tensors | {f"{UNET}adapter.weight": ONE}, "its UNet has .* tensors; expected"),
        ("other", tensors | {f"{UNET}out.0.weight": torch.zeros(7)}, "can't be converted by diffusers"),
    ):
        save_file(changed, tmp_path / f"{name}.safetensors")
        with pytest.raises(ModelError, match=reason) as refused:
            inspect_model(tmp_path / f"{name}.safetensors", tokenizer=folder)
        assert "\n" not in str(refused.value)


def test_a_vocabulary_is_asked_for_and_compared(models, tmp_path):
    file = models["sd1"][1]
    with pytest.raises(ModelError, match="--tokenizer"):
        inspect_model(file)
    with pytest.raises(ModelError, match=r"has neither vocab\.json"):
        inspect_model(file, tokenizer=tmp_path)
    (tmp_path / "vocab.json").write_text('{"a": 0}')
    (tmp_path / "merges.txt").write_text("#version: 0.2\n")
    with pytest.raises(ModelError, match=r"text encoder has 518 tokens, but the vocabulary in .* has 1"):
        inspect_model(file, tokenizer=tmp_path)


def test_the_vocabulary_of_the_hubs_cache_and_of_open_clip(models, tmp_path, monkeypatch):
    """One of a few merges: its file is what open_clip has, its vocabulary what transformers' own conversion makes."""
    merges = ["r e", "re d</w>", "c a", "ca t</w>"]
    package = tmp_path / "packages" / "open_clip"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("")
    with gzip.open(package / "bpe_simple_vocab_16e6.txt.gz", "wt", encoding="utf-8") as file:
        file.write("\n".join(['"bpe_simple_vocab_16e6.txt#version: 0.2', *merges]) + "\n")
    monkeypatch.syspath_prepend(tmp_path / "packages")
    (found,) = find_vocabularies(None, ["tokenizer"])
    (built,) = find_vocabularies(models["sd1"][0], ["tokenizer"])
    assert (found.numbers, list(found.merges)) == (built.numbers, list(built.merges))

    snapshot = tmp_path / "hub" / "models--openai--clip-vit-large-patch14" / "snapshots" / ("0" * 40)
    snapshot.mkdir(parents=True)
    (snapshot.parents[1] / "refs").mkdir()
    (snapshot.parents[1] / "refs" / "main").write_text("0" * 40)
    (snapshot / "vocab.json").write_text(json.dumps({"cached": 0}))
    (snapshot / "merges.txt").write_text("#version: 0.2\n")
    assert find_vocabularies(None, ["tokenizer", "tokenizer_2"])[1].numbers == {"cached": 0}


LDM = {
    "sd1": {"context_dim": 768, "num_heads": 8, "transformer_depth": 1, "channel_mult": [1, 2, 4, 4]},
    "sd2": {
        "context_dim": 1024,
        "num_head_channels": 64,
        "use_linear_in_transformer": True,
        "transformer_depth": 1,
        "channel_mult": [1, 2, 4, 4],
    },
    "sdxl": {
        "context_dim": 2048,
        "num_head_channels": 64,
        "use_linear_in_transformer": True,
        "transformer_depth": [1, 2, 10],
        "channel_mult": [1, 2, 4],
        "attention_resolutions": [4, 2],
        "num_classes": "sequential",
        "adm_in_channels": 2816,
    },
}


@pytest.mark.parametrize(("kind", "model_type"), [("sd1", "v1"), ("sd2", "v2"), ("sdxl", "xl_base")])
def test_published_models_get_their_published_configurations(kind, model_type):
    """Their real shapes, without numbers. LDM are the UNets of v1-inference, v2-inference-v and sd_xl_base.yaml."""
    published = json.loads((PUBLISHED / f"{kind}.json").read_text())
    with torch.device("meta"):
        unet, vae = (
            getattr(diffusers, cls).from_config(published[part]).state_dict()
            for part, cls in (("unet", "UNet2DConditionModel"), ("vae", "AutoencoderKL"))
        )
        encoders = [CLIPTextModel(CLIPTextConfig(**published["text_encoder"])).state_dict()]
        if kind == "sdxl":
            config = CLIPTextConfig(**published["text_encoder_2"])
            encoders.append(CLIPTextModelWithProjection(config).state_dict())
    tensors = original(kind, unet, 2, vae, 4) | texts(kind, encoders)
    assert infer_diffusers_model_type(tensors) == model_type
    header = {name: Tensor("F16", tuple(tensor.shape)) for name, tensor in tensors.items()}
    found = single_file_configs(SingleFile(Path("x.safetensors"), kind, header, {}))
    assert found == published

    params = {"model_channels": 320, "attention_resolutions": [4, 2, 1], "num_res_blocks": 2, "in_channels": 4}
    params |= {"out_channels": 4, **LDM[kind]}
    of_vae = {"params": {"ddconfig": {"ch_mult": [1, 2, 4, 4]}}}
    theirs = create_unet_diffusers_config_from_ldm(
        {"model": {"params": {"unet_config": {"params": params}, "first_stage_config": of_vae}}}, tensors
    )

    for name, value in theirs.items():
        assert value in (None, 1) or found["unet"][name] == value, name


def test_a_plan_of_what_is_converted_needs_no_torch(models, cache):
    folder, file = models["sd1"]
    code = (
        "import sys; from pathlib import Path; from sdbatch.diffusion.models import converted_files; "
        "from sdbatch.diffusion import inspect_model; converted_files.CACHE = Path(sys.argv[3]); "
        "print(inspect_model(sys.argv[1], tokenizer=sys.argv[2]).family, 'torch' in sys.modules)"
    )
    inspect_model(file, tokenizer=folder)
    arguments = [sys.executable, "-c", code, file, folder, cache]
    assert subprocess.check_output(arguments, text=True, cwd=REPOSITORY).split() == ["sd", "False"]
