"""Tables whose rows name LoRAs, through the real command."""

from __future__ import annotations

import hashlib
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler, StableDiffusionPipeline
from PIL import Image

import sdbatch.tiny
from tests.conftest import REPOSITORY
from tests.outputs import content, metadata, write_table

sys.path.insert(0, str(REPOSITORY / "tests" / "diffusion"))

from lora_checkpoints import build_lora

TINY = Path(sdbatch.tiny.__file__).parent / "model"
FEW = ("--sampler", "ddim", "--steps", 8, "--actors", 1)


@pytest.fixture
def folder(tmp_path) -> Path:
    (tmp_path / "in" / "loras").mkdir(parents=True)
    build_lora(tmp_path / "in" / "loras" / "one.safetensors", TINY, texts=True, kohya=True, alpha=2, seed=1)
    build_lora(tmp_path / "in" / "loras" / "two.safetensors", TINY, rank=20, seed=2, gain=0.3)
    return tmp_path / "in"


def test_rows_name_loras(folder, tmp_path, sdbatch_command):
    table = "prompt,seed,lora,prompt_syntax\na red circle,1,,\na red circle,1,loras/one.safetensors:0.8,\n"
    table += "a blue cross,2,loras/one.safetensors:-0.5;loras/two.safetensors,\n"
    table += "a blue cross,2,loras/one.safetensors:0.5:0.1,\na blue cross,3,loras/one.safetensors:1e999,\n"
    table += "a (red:1.3) circle <lora:loras/one:0.8>,4,,a1111\n"
    (folder / "p.csv").write_text(table)
    out = tmp_path / "out"
    sdbatch_command("generate", folder / "p.csv", out, *FEW, "--lora-dir", folder, status=1)
    rows = metadata(out)
    one, two = (
        hashlib.sha256((folder / "loras" / f"{n}.safetensors").read_bytes()).hexdigest() for n in ("one", "two")
    )
    assert [row["lora"] for row in rows] == [
        None,
        "loras/one.safetensors:0.8",
        "loras/one.safetensors:-0.5;loras/two.safetensors:1",
        "loras/one.safetensors:0.5:0.1",
        None,
        "loras/one.safetensors:0.8",
    ]
    assert [row["lora_sha256"] for row in rows] == [None, one, f"{one};{two}", one, None, one]
    assert "expected finite numbers as weights" in rows[4]["error"]
    text = Image.open(out / rows[2]["file_name"]).text["parameters"]
    assert text.startswith("a blue cross <lora:one:-0.5> <lora:two:1>\n")
    assert f'Lora hashes: "one: {one[:10]}, two: {two[:10]}"' in text
    assert "<lora:one:0.1:0.5>" in Image.open(out / rows[3]["file_name"]).text["parameters"]  # text encoder first
    assert "lora" not in Image.open(out / rows[0]["file_name"]).text["parameters"].lower()

    pipeline = StableDiffusionPipeline.from_pretrained(TINY, safety_checker=None)
    pipeline.scheduler = DDIMScheduler.from_config(pipeline.scheduler.config, clip_sample=False)
    pipeline.set_progress_bar_config(disable=True)
    for name in ("one", "two"):
        pipeline.load_lora_weights(folder / "loras" / f"{name}.safetensors", adapter_name=name)
    pipeline.set_adapters(["one", "two"], [-0.5, 1.0])

    def check(row: dict, **prompt) -> None:
        seed = torch.Generator().manual_seed(row["seed"])
        wanted = pipeline(**prompt, num_inference_steps=8, generator=seed, output_type="np").images[0]
        made = np.asarray(Image.open(out / row["file_name"]))
        assert np.abs(made - (wanted * 255).round()).max() <= 2

    check(rows[2], prompt="a blue cross")
    pipeline.set_adapters(["one", "two"], [0.8, 0.0])
    embeds, empty = pipeline.encode_prompt("a red circle", "cpu", 1, True)
    weights = torch.ones(embeds.shape[1])
    weights[2] = 1.3  # after the start of the text, "a" is its first token and "red" its second
    weighted = embeds * weights[:, None]
    # stable-diffusion-webui keeps the mean.
    check(rows[5], prompt_embeds=weighted * (embeds.mean() / weighted.mean()), negative_prompt_embeds=empty)

    assert "5 images made again from their metadata, 0 of them different" in (
        sdbatch_command("verify", out, "--remake", 5).stdout
    )


def test_prompts_name_loras_of_a_folder(folder, tmp_path, stand_in_command):
    prompts = ["a red circle", "a red <lora:one:0.8>circle"]
    table, out = write_table(folder / "q.parquet", {"prompt": prompts, "seed": [1, 1]}), tmp_path / "out"
    command = ("generate", table, out, *FEW, "--lora-dir", folder / "loras")
    stand_in_command(*command)
    rows = metadata(out)
    assert [row["prompt"] for row in rows] == ["a red circle", "a red circle"]
    assert [row["lora"] for row in rows] == [None, "one.safetensors:0.8"]
    one = hashlib.sha256((folder / "loras" / "one.safetensors").read_bytes()).hexdigest()
    assert [row["lora_sha256"] for row in rows] == [None, one]
    before = content(out)
    stand_in_command(*command)
    assert content(out) == before
    # Another file in its place would make a dataset of two; the same one written again does not.
    file = folder / "loras" / "one.safetensors"
    file.write_bytes(file.read_bytes())
    stand_in_command(*command)
    file.write_bytes((folder / "loras" / "two.safetensors").read_bytes())
    refused = stand_in_command(*command, status=2).stderr
    assert f"{str(file)!r} has changed since OUT was started: its content differs" in refused
    assert content(out) == before


def test_a_file_that_does_not_fit_is_refused_before_anything_is_loaded(folder, tmp_path, sdbatch_command):
    (folder / "loras" / "bad.safetensors").write_bytes((folder / "loras" / "one.safetensors").read_bytes()[:-1])
    names = [["loras/one.safetensors:1"], ["loras/one.safetensors:1", "loras/bad.safetensors:0.5"]]
    prompts = write_table(folder / "p.parquet", {"prompt": ["a", "b"], "lora": names})
    refused = sdbatch_command("generate", prompts, tmp_path / "out", status=2).stderr
    assert (
        f"{prompts}: row 1 (from 0), lora: loras/bad.safetensors: is shorter or longer than its header says" in refused
    )
    assert not (tmp_path / "out").exists()
    missing = sdbatch_command("plan", "a red circle", tmp_path / "out", "--lora", "nowhere.safetensors", status=2)
    assert "--lora: " in missing.stderr and "nowhere.safetensors: is missing" in missing.stderr
