"""Tables whose rows start from pictures and name LoRAs, for diffusion transformers, through the real command."""

from __future__ import annotations

import io
import sys
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import PIL.ImageOps
import pytest
import torch
from diffusers import DiffusionPipeline, FluxImg2ImgPipeline, ZImageImg2ImgPipeline
from PIL import Image
from safetensors.torch import load_file, save_file

from tests.conftest import REPOSITORY
from tests.diffusion import flow_checkpoints
from tests.outputs import content, metadata

sys.path.insert(0, str(REPOSITORY / "tests" / "diffusion"))

from lora_checkpoints import build_transformer_loras
from picture_rows import photo

SIZE = 64
FEW = ("--lanes", 2, "--steps", 4, "--guidance-scale", 3, "--task", "image-to-image", "--actors", 1, "--shard-size", 2)
ROWS = """\
prompt,seed,image,strength,lora
a red fox,1,small.png,0.5,
a red fox,2,wide.png,,loras/attention.safetensors:0.8
misty forest at dawn,3,small.png,0.75,loras/everything.safetensors:0.6;loras/attention.safetensors:0.5
fox in the snow,4,,,loras/everything.safetensors
"""


class Model(NamedTuple):
    build: Any
    from_picture: type[DiffusionPipeline]


MODELS = {
    "flux": Model(flow_checkpoints.build_flux, FluxImg2ImgPipeline),
    "z-image": Model(flow_checkpoints.build_z_image, ZImageImg2ImgPipeline),
}


@pytest.fixture(scope="module", params=["flux", pytest.param("z-image", marks=pytest.mark.long)])
def name(request) -> str:
    return request.param


@pytest.fixture(scope="module")
def made(name, tmp_path_factory, sdbatch_command) -> Path:
    """A folder of a model, a table with its pictures and LoRAs, and its output."""
    folder = tmp_path_factory.mktemp(name)
    MODELS[name].build(folder / "model")
    (folder / "loras").mkdir()
    build_transformer_loras(folder / "loras", folder / "model", kohya=False)
    photo(SIZE, SIZE, seed=1).save(folder / "small.png")
    photo(70, 108, seed=2).save(folder / "wide.png")
    (folder / "p.csv").write_text(ROWS)
    sdbatch_command("generate", folder / "p.csv", folder / "out", "--model", folder / "model", *options())
    return folder


def options() -> tuple[object, ...]:
    return (*FEW, "--height", SIZE, "--width", SIZE)


def wanted(folder: Path, model: Model, row: dict) -> np.ndarray:
    """diffusers' picture of a row of the metadata."""
    pipeline = DiffusionPipeline.from_pretrained(folder / "model")
    loras = [entry.rpartition(":") for entry in (row["lora"] or "").split(";") if entry]
    for i, (path, _, _) in enumerate(loras):
        pipeline.load_lora_weights(folder / path, adapter_name=f"lora{i}")
    if loras:
        pipeline.set_adapters([f"lora{i}" for i in range(len(loras))], [float(weight) for _, _, weight in loras])
    arguments = {
        "prompt": row["prompt"],
        "guidance_scale": row["guidance_scale"],
        "num_inference_steps": row["steps"],
        "height": row["height"],
        "width": row["width"],
        "generator": torch.Generator().manual_seed(row["seed"]),
        "output_type": "np",
    }
    if row["input_image"] is not None:
        pipeline = model.from_picture(**pipeline.components)
        image = Image.open(folder / row["input_image"]).convert("RGB")
        fitted = PIL.ImageOps.fit(image, (row["width"], row["height"]), Image.Resampling.LANCZOS)
        arguments |= {"image": fitted, "strength": row["strength"]}
    pipeline.set_progress_bar_config(disable=True)
    return (pipeline(**arguments).images[0] * 255).round()


def test_rows_are_diffusers_pictures(name, made):
    rows = metadata(made / "out")
    assert [(row["status"], row["error"]) for row in rows] == [("ok", None)] * 4
    assert [row["input_image"] for row in rows] == ["small.png", "wide.png", "small.png", None]
    assert [row["strength"] for row in rows] == [0.5, 0.6, 0.75, 0.6]
    assert [row["lora"] for row in rows][2:] == [
        "loras/everything.safetensors:0.6;loras/attention.safetensors:0.5",
        "loras/everything.safetensors:1",
    ]
    for row in rows:
        picture = Image.open(io.BytesIO((made / "out" / row["file_name"]).read_bytes())).convert("RGB")
        assert np.abs(np.asarray(picture) - wanted(made, MODELS[name], row)).max() <= 2, row["prompt"]


def test_a_killed_run_continues_to_the_same_bytes(made, sdbatch_command):
    before = content(made / "out")
    marker = sorted((made / "out").glob("*_stats.json"))[1]
    marker.unlink()  # what a kill before the shard's last write leaves
    sdbatch_command("generate", made / "p.csv", made / "out", "--model", made / "model", *options())
    assert marker.exists() and content(made / "out") == before


def test_they_are_made_again_from_their_metadata(made, sdbatch_command):
    said = sdbatch_command("verify", made / "out", "--remake", 4).stdout
    assert "4 images made again from their metadata, 0 of them different" in said


def test_what_cannot_be_made_is_refused_in_the_plan(name, made, tmp_path, sdbatch_command):
    def refused(table: str, *more: object, status: int = 2) -> str:
        (made / "q.csv").write_text(table)
        arguments = ("plan", made / "q.csv", tmp_path / "out", "--model", made / "model", *options(), *more)
        process = sdbatch_command(*arguments, status=status)
        return process.stderr + process.stdout

    row = "prompt,image,strength,lora\na,small.png,{},{}\n"
    assert "strength is 1.5; must be a number from 0 to 1" in refused(row.format(1.5, ""), status=1)
    assert "strength 0 of 4 steps leaves no step" in refused(row.format(0.0, ""), status=1)
    own = metadata(made / "out")[1]["lora"].partition(":")[0]
    tensors = load_file(made / own)
    foreign = {f"transformer.elsewhere.{half}": torch.zeros(4, 4) for half in ("lora_A.weight", "lora_B.weight")}
    save_file(tensors | foreign, made / "loras" / "foreign.safetensors")
    said = refused(row.format(0.5, "loras/foreign.safetensors"))
    assert "row 0 (from 0), lora: loras/foreign.safetensors: layer transformer.elsewhere: " in said
    assert "nowhere.safetensors: is missing" in refused(row.format(0.5, "loras/nowhere.safetensors"))
    assert "--mask-image: image-to-image does not use it" in refused(
        row.format(0.5, ""), "--mask-image", made / "small.png"
    )
    assert "--task inpainting: this model is not made for it" in refused(row.format(0.5, ""), "--task", "inpainting")
    sampler = refused(row.format(0.5, ""), "--sampler", "euler", status=1)
    assert "sampler euler does not work with" in sampler
