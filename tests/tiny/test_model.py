"""The model folder: small, safe, and stock diffusers' own."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from diffusers import StableDiffusionPipeline

from training.tiny.judge import MODEL


@pytest.fixture(scope="module")
def pipeline():
    pipeline = StableDiffusionPipeline.from_pretrained(MODEL)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def test_at_most_16_megabytes_and_no_pickles():
    files = [path for path in MODEL.rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) <= 16_000_000
    assert {path.suffix for path in files} <= {".json", ".safetensors", ".md", ".txt"}


def test_the_scheduler_is_ddpm_without_clipping(pipeline):
    config = json.loads((MODEL / "scheduler" / "scheduler_config.json").read_text())
    assert config["_class_name"] == "DDPMScheduler" and config["prediction_type"] == "epsilon"
    assert config["clip_sample"] is False and config["steps_offset"] == 1


@pytest.mark.parametrize("prompt", ["a red circle", "ein ζέβρα 🦓 \x00 never seen", "", "big " * 200])
def test_any_prompt_gives_a_picture(pipeline, prompt):
    generator = torch.Generator("cpu").manual_seed(0)
    image = pipeline(prompt, num_inference_steps=5, generator=generator, output_type="np").images[0]
    assert image.shape == (64, 64, 3) and np.isfinite(image).all() and image.std() > 0.01


def test_all_parts_come_in_one_dtype(pipeline):
    assert {part.dtype for part in (pipeline.unet, pipeline.vae, pipeline.text_encoder)} == {torch.float32}


def test_the_card_tells_how_it_was_made():
    card = (MODEL / "README.md").read_text()
    for told in ("training.tiny.train", "at commit", "| autoencoder |", "guidance 7.5"):
        assert told in card
