"""FLUX.2 klein, distilled and base, against Flux2KleinPipeline; FLUX.2 dev against Flux2Pipeline."""

from __future__ import annotations

import json

import flow_checkpoints
import pytest
import torch
from flow_references import assert_no_farther_in_bf16, assert_same_pictures, rows

from sdbatch.diffusion.embeddings import Text
from sdbatch.diffusion.models.inspection import inspect_model
from sdbatch.diffusion.models.loading import load_family
from sdbatch.diffusion.request import Request


def told(request: Request) -> dict:
    return {"guidance_scale": request.guidance_scale}


def test_dev_makes_the_pipelines_pictures(tmp_path):
    folder = flow_checkpoints.build_flux2_dev(tmp_path / "dev")
    info = inspect_model(folder)
    assert (info.family, info.title) == ("flux2-dev", "FLUX.2 dev")
    assert_same_pictures(folder, rows(info.samplers, (4.0, 1.0, 2.5), negative=False), told)


def test_dev_takes_no_token_of_a_picture_from_a_prompt(tmp_path):
    folder = flow_checkpoints.build_flux2_dev(tmp_path / "dev")
    index = json.loads((folder / "model_index.json").read_text())
    index["tokenizer"] = ["transformers", "PixtralProcessor"]  # as in the published folder
    (folder / "model_index.json").write_text(json.dumps(index))
    family = load_family(inspect_model(folder), "fp32", torch.device("cpu"))
    with_token, without = (family.encode([Text("prompt", text)]) for text in ("a [IMG]fox", "a fox"))
    assert torch.equal(with_token["encoder_hidden_states"], without["encoder_hidden_states"])


@pytest.mark.parametrize("distilled", [False, True])
def test_it_makes_the_pipelines_pictures(distilled, tmp_path):
    folder = flow_checkpoints.build_klein(tmp_path / "klein", distilled=distilled)
    info = inspect_model(folder)
    assert info.title == ("FLUX.2 klein" if distilled else "FLUX.2 klein base")
    requests = rows(
        info.samplers, (1.0,) if distilled else (4.0, 1.0, 2.5), negative=False, times=1 if distilled else 2
    )
    assert_same_pictures(folder, requests, told)


@pytest.mark.long
def test_in_bf16(tmp_path):
    assert_no_farther_in_bf16(flow_checkpoints.build_flux2_dev(tmp_path / "dev"), told, guidance_scale=4.0)
    folder = flow_checkpoints.build_klein(tmp_path / "klein", distilled=True)
    assert_no_farther_in_bf16(folder, lambda request: {"guidance_scale": 1.0}, guidance_scale=1.0)
