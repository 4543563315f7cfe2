"""Scores of networks against their authors' code, with small random weights."""

from __future__ import annotations

from copy import deepcopy
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers.pipelines.stable_diffusion.safety_checker import StableDiffusionSafetyChecker, cosine_distance
from PIL import Image
from safetensors.torch import save_file
from transformers import CLIPConfig, CLIPModel, CLIPTokenizer, SiglipConfig, SiglipModel
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil
from transformers.models.siglip.image_processing_pil_siglip import SiglipImageProcessorPil

import sdbatch.tiny
from sdbatch.diffusion import Request
from sdbatch.errors import ModelError
from sdbatch.scoring.aesthetic import Aesthetic
from sdbatch.scoring.clip import Clip
from sdbatch.scoring.nsfw import Nsfw
from sdbatch.scoring.registry import Models, find_scorers
from tests.attention_calls import attention_calls

TOKENIZER = Path(sdbatch.tiny.__file__).parent / "model" / "tokenizer"
SIZES = {"hidden_size": 32, "intermediate_size": 37, "num_hidden_layers": 2, "num_attention_heads": 4}
REQUESTS = [Request(prompt=f"a {colour} circle") for colour in ("red", "blue", "green", "orange", "purple") * 4]


@pytest.fixture(scope="module")
def pictures():
    rng = np.random.default_rng(0)
    shapes = [(64, 64), (48, 80), (96, 40), (64, 64), (224, 224)] * 4
    return [
        rng.integers(0, 256, (height // 8, width // 8, 3), dtype=np.uint8).repeat(8, 0).repeat(8, 1)
        for height, width in shapes
    ]


@pytest.fixture(scope="module")
def config():
    tokenizer = CLIPTokenizer.from_pretrained(TOKENIZER)
    ends = {
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }
    text = SIZES | {"vocab_size": len(tokenizer), "max_position_embeddings": tokenizer.model_max_length} | ends
    vision = SIZES | {"image_size": 30, "patch_size": 6}
    return CLIPConfig(text_config=text, vision_config=vision, projection_dim=24)


@pytest.fixture(scope="module")
def clip(config, tmp_path_factory):
    folder = tmp_path_factory.mktemp("clip")
    torch.manual_seed(0)
    CLIPModel(deepcopy(config)).save_pretrained(folder)
    CLIPImageProcessorPil(size={"shortest_edge": 30}, crop_size=30).save_pretrained(folder)
    CLIPTokenizer.from_pretrained(TOKENIZER).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def model(config, pictures, tmp_path_factory):
    """A model's folder as far as the checker goes: one that flags about half of what it sees."""
    folder = tmp_path_factory.mktemp("model")
    torch.manual_seed(1)
    checker = StableDiffusionSafetyChecker(deepcopy(config))
    processor = CLIPImageProcessorPil(size={"shortest_edge": 30}, crop_size=30)
    with torch.inference_mode():
        pixels = processor([Image.fromarray(picture) for picture in pictures], return_tensors="pt").pixel_values
        embeddings = checker.visual_projection(checker.vision_model(pixels)[1])
    for embeds, weights in (
        (checker.concept_embeds, checker.concept_embeds_weights),
        (checker.special_care_embeds, checker.special_care_embeds_weights),
    ):
        embeds.data.normal_()
        weights.data.fill_(1.0)
        weights.data[0] = cosine_distance(embeddings, embeds.data)[:, 0].median()
    checker.save_pretrained(folder / "safety_checker")
    processor.save_pretrained(folder / "feature_extractor")
    return folder


def values(scorer, pictures, name):
    return np.array([scores[name] for scores in scorer.score(pictures, REQUESTS[: len(pictures)])])


def test_clip_is_the_cosine_that_transformers_gives(clip, pictures):
    ours = values(Clip(clip, "cpu"), pictures, "clip")
    model, tokenizer = CLIPModel.from_pretrained(clip).eval(), CLIPTokenizer.from_pretrained(clip)
    processor = CLIPImageProcessorPil.from_pretrained(clip)
    for picture, request, score in zip(pictures, REQUESTS, ours, strict=True):
        tokens = tokenizer([request.prompt], padding=True, return_tensors="pt")
        pixels = processor(Image.fromarray(picture), return_tensors="pt").pixel_values
        with torch.inference_mode():
            logits = model(pixel_values=pixels, **tokens).logits_per_image / model.logit_scale.exp()
        assert score == pytest.approx(logits.item(), abs=1e-4)
    assert np.ptp(ours) > 0.05


def test_siglip_is_the_cosine_that_transformers_gives(config, pictures, tmp_path):
    text = config.text_config.to_dict() | {"projection_size": 32}
    sizes = {"text_config": text, "vision_config": SIZES | {"image_size": 32, "patch_size": 8}}
    torch.manual_seed(0)
    model = SiglipModel(SiglipConfig(**sizes)).eval()
    for part in (model, SiglipImageProcessorPil(size={"height": 32, "width": 32})):
        part.save_pretrained(tmp_path)
    tokenizer = CLIPTokenizer.from_pretrained(TOKENIZER)
    tokenizer.save_pretrained(tmp_path)
    ours = values(Clip(tmp_path, "cpu"), pictures, "clip")
    processor, length = (
        SiglipImageProcessorPil.from_pretrained(tmp_path),
        model.config.text_config.max_position_embeddings,
    )
    for picture, request, score in zip(pictures, REQUESTS, ours, strict=True):
        tokens = tokenizer([request.prompt], padding="max_length", max_length=length, return_tensors="pt")
        pixels = processor(Image.fromarray(picture), return_tensors="pt").pixel_values
        with torch.inference_mode():
            logits = model(pixel_values=pixels, input_ids=tokens.input_ids).logits_per_image
        cosine = (logits - model.logit_bias) / model.logit_scale.exp()
        assert score == pytest.approx(cosine.item(), abs=1e-4)
    assert np.ptp(ours) > 0.05


@pytest.mark.parametrize("count", [1, 3, 8, 11])
def test_scores_do_not_depend_on_what_is_scored_beside(clip, model, pictures, count):
    for scorer, name in (
        (Clip(clip, "cpu"), "clip"),
        (Nsfw(model / "safety_checker", model / "feature_extractor", "cpu"), "nsfw_score"),
    ):
        assert np.array_equal(values(scorer, pictures[:count], name), values(scorer, pictures, name)[:count])


def test_long_prompts_are_masked_alike_in_any_company(clip, pictures, monkeypatch):
    scorer = Clip(clip, "cpu")
    seen = attention_calls(monkeypatch)
    long = Request(prompt="a red circle on a blue square " * 40)
    kernels = []
    for requests in ([long] * 8, [long, *REQUESTS[:7]]):
        seen.clear()
        scorer.score(pictures[:8], requests)
        kernels.append(list(seen))
    assert kernels[0] == kernels[1]


def test_nsfw_is_what_diffusers_checker_decides(model, pictures):
    scorer = Nsfw(model / "safety_checker", model / "feature_extractor", "cpu")
    checker = StableDiffusionSafetyChecker.from_pretrained(model / "safety_checker").eval()
    processor = CLIPImageProcessorPil.from_pretrained(model / "feature_extractor")
    decided = []
    for picture in pictures:
        pixels = processor(Image.fromarray(picture), return_tensors="pt").pixel_values
        decided += checker(clip_input=pixels, images=[picture.copy()])[1]
    found = scorer.score(pictures, REQUESTS)
    assert [scores["nsfw"] for scores in found] == decided
    assert [scores["nsfw_score"] > 0 for scores in found] == decided
    assert set(decided) == {True, False}


def v2(width):
    layers = [torch.nn.Linear(width, 1024), torch.nn.Dropout(), torch.nn.Linear(1024, 128), torch.nn.Dropout()]
    layers += [torch.nn.Linear(128, 64), torch.nn.Dropout(), torch.nn.Linear(64, 16), torch.nn.Linear(16, 1)]
    return torch.nn.ModuleDict({"layers": torch.nn.Sequential(*layers)})


@pytest.mark.parametrize("kind", ["linear", "v2"])
@pytest.mark.parametrize("suffix", [".safetensors", ".pth"])
def test_aesthetic_is_the_head_on_clips_embedding(clip, pictures, tmp_path, kind, suffix):
    torch.manual_seed(2)
    head = torch.nn.Linear(24, 1) if kind == "linear" else v2(24).eval()
    file = tmp_path / f"head{suffix}"
    save_file(head.state_dict(), file) if suffix == ".safetensors" else torch.save(head.state_dict(), file)
    ours = values(Aesthetic(clip, file, "cpu"), pictures, "aesthetic")
    model, processor = CLIPModel.from_pretrained(clip).eval(), CLIPImageProcessorPil.from_pretrained(clip)
    for picture, score in zip(pictures, ours, strict=True):
        pixels = processor(Image.fromarray(picture), return_tensors="pt").pixel_values
        with torch.inference_mode():
            embedding = model.visual_projection(model.vision_model(pixels).pooler_output)
            embedding = embedding / embedding.norm(dim=-1, keepdim=True)
            expected = (head if kind == "linear" else head["layers"])(embedding).item()
        assert score == pytest.approx(expected, abs=1e-4)


def test_a_head_that_does_not_fit_is_refused(clip, tmp_path):
    file = tmp_path / "head.safetensors"
    save_file(torch.nn.Linear(768, 1).state_dict(), file)
    with pytest.raises(ModelError, match="width 768"):
        Aesthetic(clip, file, "cpu")
    save_file({"other": torch.zeros(1)}, file)
    with pytest.raises(ModelError, match="neither LAION's linear head nor the V2"):
        Aesthetic(clip, file, "cpu")
    file.write_bytes(b"no weights")
    with pytest.raises(ModelError, match="can't be read"):
        Aesthetic(clip, file, "cpu")


def test_missing_weights_are_not_made_up(clip, tmp_path):
    torch.manual_seed(0)
    broken = CLIPModel.from_pretrained(clip)
    weights = broken.state_dict()
    del weights["visual_projection.weight"]
    for name in ("config.json", "preprocessor_config.json", "tokenizer_config.json", "tokenizer.json"):
        if (clip / name).exists():
            (tmp_path / name).write_bytes((clip / name).read_bytes())
    save_file(
        {name: tensor.clone() for name, tensor in weights.items()}, tmp_path / "model.safetensors", {"format": "pt"}
    )
    with pytest.raises(ModelError, match=r"lack visual_projection\.weight"):
        Clip(tmp_path, "cpu")
    with pytest.raises(ModelError, match="can't be loaded as a scorer's model"):
        Clip(tmp_path / "nowhere", "cpu")


def test_they_are_made_from_their_declarations(clip, model, tmp_path):
    head = tmp_path / "head.safetensors"
    save_file(torch.nn.Linear(24, 1).state_dict(), head)
    models = Models({"clip": clip, "aesthetic": head}, folder=model)
    described = [declared.make(models).describe() for declared in find_scorers(("clip", "aesthetic", "nsfw"))]
    assert len({found["weights"] for found in described}) == 3
    (wanting,) = find_scorers(("clip",))
    with pytest.raises(ModelError, match="--scorer-model clip=PATH"):
        wanting.make(Models({}, folder=model))
    (wanting,) = find_scorers(("nsfw",))
    with pytest.raises(ModelError, match="has no safety_checker"):
        wanting.make(Models({}, folder=tmp_path))
