"""Textual inversion: the pictures of diffusers' `load_textual_inversion`, and other rows as they were."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import StableDiffusionXLPipeline
from references import Reference
from safetensors.torch import load_file, save_file

from sdbatch.diffusion import inspect_model
from sdbatch.diffusion.engine import Engine
from sdbatch.diffusion.models.model_identity import model_files, model_hash
from sdbatch.diffusion.request import Request
from sdbatch.errors import AdapterError

SETTINGS = {"sampler": "ddim", "steps": 2, "height": 64, "width": 64, "guidance_scale": 5.0}
PLAIN = [Request("a cat", negative_prompt="red", seed=1, **SETTINGS), Request("red", seed=2, **SETTINGS)]
NAMED = [
    Request("a <toy> on red", negative_prompt="cat", seed=3, **SETTINGS),
    Request("red <toy>, <many> cat", negative_prompt="<many>", seed=4, **SETTINGS),
]


def vectors(seed: int, *shape: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def width(folder: Path, part: str) -> int:
    return next(
        tensor.shape[1]
        for name, tensor in load_file(folder / part / "model.safetensors").items()
        if name.endswith("token_embedding.weight")
    )


@pytest.fixture
def pair(tmp_path, sdxl) -> dict[str, Path]:
    files = {}
    for number, (token, count) in enumerate((("<toy>", 1), ("<many>", 3))):
        files[token] = tmp_path / f"xl{number}.safetensors"
        own = zip(("clip_l", "clip_g"), ("text_encoder", "text_encoder_2"), strict=True)
        save_file({name: vectors(number, count, width(sdxl, part)) for name, part in own}, files[token])
    return files


@pytest.fixture
def singles(tmp_path, sd) -> dict[str, Path]:
    """One vector as diffusers writes it, three as AUTOMATIC1111 does."""
    files = {"<toy>": tmp_path / "learned_embeds.safetensors", "<many>": tmp_path / "many.safetensors"}
    save_file({"<other-name>": vectors(1, width(sd, "text_encoder"))}, files["<toy>"])
    save_file({"emb_params": vectors(2, 3, width(sd, "text_encoder"))}, files["<many>"])
    return files


def pictures(model, rows: list[Request]) -> list[np.ndarray]:
    made = Engine(model, lanes=4, device="cpu", threads=1).generate(rows)
    return [image.pixels for image in sorted(made, key=lambda image: image.index)]


def assert_alike(folder: Path, files: dict[str, Path], reference: Reference) -> None:
    made = pictures(inspect_model(folder, embeddings=files), [*PLAIN, *NAMED])
    for ours, theirs in zip(made, pictures(folder, PLAIN), strict=False):
        assert np.array_equal(ours, theirs)
    for row, ours in zip(NAMED, made[len(PLAIN) :], strict=True):
        assert np.abs(ours.astype(int) - reference.pixels(row).astype(int)).max() <= 2


def test_rows_that_name_tokens_are_diffusers_own(sd, singles):
    reference = Reference(sd)
    for token, path in singles.items():
        reference.pipeline.load_textual_inversion(str(path.parent), weight_name=path.name, token=token)
    assert_alike(sd, singles, reference)


def test_pairs_of_xl_are_diffusers_own(sdxl, pair):
    reference = Reference(sdxl, StableDiffusionXLPipeline)
    pipeline = reference.pipeline
    for token, path in pair.items():
        for name, end in (("clip_l", ""), ("clip_g", "_2")):
            encoder, tokenizer = getattr(pipeline, f"text_encoder{end}"), getattr(pipeline, f"tokenizer{end}")
            own = {token: load_file(path)[name]}
            pipeline.load_textual_inversion(own, token=token, text_encoder=encoder, tokenizer=tokenizer)
    assert_alike(sdxl, pair, reference)


def test_a_tokens_case_makes_no_difference(sd, singles):
    """All vectors are used, as in AUTOMATIC1111: CLIP's tokenizer lowers the text, and diffusers misses other cases."""
    reference = Reference(sd)
    path = singles["<many>"]
    reference.pipeline.load_textual_inversion(str(path.parent), weight_name=path.name, token="easytoy")
    rows = [Request(f"a {word} on red", seed=3, **SETTINGS) for word in ("easytoy", "EasyToy", "EASYTOY")]
    made = pictures(inspect_model(sd, embeddings={"EasyToy": path}), rows)
    assert np.abs(made[0].astype(int) - reference.pixels(rows[0]).astype(int)).max() <= 2
    assert all(np.array_equal(own, made[0]) for own in made[1:])


def test_a_token_within_another_one(sd, singles, tmp_path):
    """diffusers replaces them one by one, in the order of a set; its reference has names apart."""
    other = tmp_path / "other.safetensors"
    save_file({"emb_params": vectors(3, 2, width(sd, "text_encoder"))}, other)
    reference = Reference(sd)
    for token, path in {"<a>": singles["<many>"], "<b>": other}.items():
        reference.pipeline.load_textual_inversion(str(path.parent), weight_name=path.name, token=token)
    expected = reference.pixels(Request("a <a> <b> on red", seed=3, **SETTINGS))
    files = {"sty": singles["<many>"], "style": other}
    (made,) = pictures(inspect_model(sd, embeddings=files), [Request("a sty style on red", seed=3, **SETTINGS)])
    assert np.abs(made.astype(int) - expected.astype(int)).max() <= 2
    with pytest.raises(AdapterError, match="STYLE: differs from style only in case"):
        inspect_model(sd, embeddings=files | {"STYLE": other})


def test_files_are_part_of_the_models_identity(sd, singles):
    plain, own = inspect_model(sd), inspect_model(sd, embeddings=singles)
    assert model_hash(plain) == model_hash(own) and hash(own) is not None  # it is a key of caches
    assert model_files(own).keys() - model_files(plain).keys() == {"embeddings/<toy>", "embeddings/<many>"}


def test_what_does_not_fit_is_refused_by_its_header(sd, sdxl, singles, pair, tmp_path):
    (tmp_path / "x.pt").write_bytes(b"PK")
    dim = width(sd, "text_encoder")
    for name, tensors in (
        ("two", {"a": vectors(1, dim), "b": vectors(2, dim)}),
        ("wide", {"emb_params": vectors(1, 2, dim + 1)}),
        ("none", {"emb_params": vectors(1, 0, dim)}),
        ("whole", {"emb_params": torch.zeros(1, dim, dtype=torch.int32)}),
    ):
        save_file(tensors, tmp_path / f"{name}.safetensors")
    for folder, token, path, reason in (
        (sd, "<x>", tmp_path / "x.pt", "pickled files can run code"),
        (sd, "<x>", tmp_path / "absent.safetensors", "is missing"),
        (sd, "<x>", tmp_path / "two.safetensors", "is not an embedding"),
        (sd, "<x>", tmp_path / "wide.safetensors", f"vectors of {dim + 1} numbers, but the text encoder needs {dim}"),
        (sd, "<x>", tmp_path / "none.safetensors", "has 0 vectors"),
        (sd, "<x>", tmp_path / "whole.safetensors", "I32"),
        (sd, "<x>", pair["<toy>"], "is for Stable Diffusion XL"),
        (sdxl, "<x>", singles["<toy>"], "has no clip_l and clip_g"),
        (sd, "re", singles["<toy>"], "vocabulary already has this token"),
        (sd, "RE", singles["<toy>"], "vocabulary already has this token"),
        (sd, "a b", singles["<toy>"], "without blanks"),
    ):
        with pytest.raises(AdapterError, match=reason) as refused:
            inspect_model(folder, embeddings={token: path})
        assert str(refused.value).startswith(f"--embedding {token}=") and "\n" not in str(refused.value)


def test_numbers_that_are_not_finite_are_found_when_the_file_is_read(sd, tmp_path):
    save_file({"emb_params": vectors(1, 2, width(sd, "text_encoder")) / 0}, tmp_path / "x.safetensors")
    with pytest.raises(AdapterError, match="not finite"):
        Engine(inspect_model(sd, embeddings={"<x>": tmp_path / "x.safetensors"}), lanes=2, device="cpu")
