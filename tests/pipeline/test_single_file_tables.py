"""A single-file checkpoint with a token of textual inversion and swapped parts, through the whole command."""

from __future__ import annotations

import json
import sys

import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from tests.conftest import REPOSITORY
from tests.outputs import metadata, write_table

sys.path.insert(0, str(REPOSITORY / "tests" / "diffusion"))

from single_file_checkpoints import as_single_file, build_original

FAST = ("--steps", 2, "--sampler", "ddim", "--height", 64, "--width", 64, "--actors", 1)


@pytest.fixture
def here(tmp_path, monkeypatch):
    """The folder in which the commands run."""
    monkeypatch.chdir(tmp_path)
    folder = build_original(tmp_path / "folder", "sd1")
    as_single_file(folder, tmp_path / "small.safetensors", "sd1")
    generator = torch.Generator().manual_seed(0)
    save_file({"emb_params": torch.randn(2, 64, generator=generator)}, tmp_path / "toy.safetensors")
    write_table(tmp_path / "p.parquet", {"prompt": ["a cat", "a <toy>"], "seed": [1, 2]})
    return tmp_path


def test_it_is_planned_made_resumed_remade_and_compared(here, sdbatch_command):
    model = ("--model", "small.safetensors", "--tokenizer", "folder", "--embedding", "<toy>=toy.safetensors")
    model += ("--text-encoder", "folder/text_encoder", "--scheduler-config", "timestep_spacing=trailing")
    planned = sdbatch_command("plan", "p.parquet", "out", *FAST, *model)
    assert "small (sd, 512x512, epsilon)" in planned.stdout
    sdbatch_command("generate", "p.parquet", "out", *FAST, *model)
    rows = metadata(here / "out")
    assert [row["status"] for row in rows] == ["ok", "ok"]
    recorded = json.loads((here / "out" / "run.json").read_text())["model"]
    assert (recorded["name"], recorded["source"]) == ("small", str(here / "small.safetensors"))
    assert recorded["tokenizer"] == str(here / "folder")
    assert recorded["embeddings"] == {"<toy>": str(here / "toy.safetensors")}
    assert recorded["text_encoders"] == {"text_encoder": str(here / "folder" / "text_encoder")}
    assert recorded["scheduler_config"] == {"timestep_spacing": "trailing"}
    with Image.open(here / "out" / rows[0]["file_name"]) as picture:
        assert f"Model hash: {recorded['hash'][:10]}" in picture.text["parameters"]

    assert (
        "2 images made again from their metadata, 0 of them" in sdbatch_command("verify", "out", "--remake", 2).stdout
    )

    other = (*model[:-1], "timestep_spacing=linspace")
    refused = sdbatch_command("generate", "p.parquet", "out", *FAST, *other, status=2).stderr
    assert "scheduler/scheduler_config.json differ" in refused
    refused = sdbatch_command("plan", "p.parquet", "new", *FAST, *model[:-1], "use_karras_sigmas=true", status=2).stderr
    assert "sampler ddim does not use use_karras_sigmas, which --scheduler-config sets" in refused
    save_file({"emb_params": torch.zeros(2, 64)}, here / "toy.safetensors")
    refused = sdbatch_command("generate", "p.parquet", "out", *FAST, *model, status=2).stderr
    assert "embeddings/<toy> differ" in refused and len(refused.strip().splitlines()) == 1
    said = sdbatch_command("plan", "p.parquet", "other", "--model", "toy.safetensors", status=2).stderr
    assert "toy.safetensors: is a textual inversion embedding" in said
