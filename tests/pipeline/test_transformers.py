"""Diffusion transformers through the whole command, on folders that `save_pretrained` made."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
from PIL import Image

from sdbatch.diffusion.request import COMMON, Request
from tests.diffusion import flow_checkpoints, flow_references
from tests.outputs import content, metadata, write_table

PROMPTS = ["a red fox", "misty forest at dawn, " * 9]


class Family(NamedTuple):
    """How to build a checkpoint, what a row of it has, and how its pipeline is called for such a row."""

    build: Callable[[Path], Path]
    options: dict[str, object]
    arguments: flow_references.Arguments


def guided(request: Request) -> dict:
    return {"guidance_scale": request.guidance_scale, "negative_prompt": request.negative_prompt}


def as_it_stands(request: Request) -> dict:
    return guided(request) | {"use_resolution_binning": False, "clean_caption": False}


EULER = {"sampler": "flow_euler", "steps": 3, "guidance_scale": 3.0}
FAMILIES = {
    "sd3": Family(flow_checkpoints.build_sd3, EULER | {"negative_prompt": "dull"}, guided),
    "flux-dev": Family(
        flow_checkpoints.build_flux,
        EULER | {"negative_prompt": "dull", "true_cfg_scale": 2.0},
        lambda request: guided(request) | dict(request.extra),
    ),
    "chroma": Family(flow_checkpoints.build_chroma, EULER | {"negative_prompt": "dull"}, guided),
    "flux2-dev": Family(
        flow_checkpoints.build_flux2_dev, EULER, lambda request: {"guidance_scale": request.guidance_scale}
    ),
    "flux2-klein": Family(
        lambda folder: flow_checkpoints.build_klein(folder, distilled=False),
        EULER,
        lambda request: {"guidance_scale": request.guidance_scale},
    ),
    "z-image": Family(flow_checkpoints.build_z_image, EULER | {"negative_prompt": "dull"}, guided),
    "lumina2": Family(
        flow_checkpoints.build_lumina_2,
        EULER | {"negative_prompt": "dull", "cfg_normalization": 0.0},
        lambda request: guided(request) | {"cfg_normalization": bool(request.extra["cfg_normalization"])},
    ),
    "qwen-image": Family(
        flow_checkpoints.build_qwen_image,
        EULER | {"negative_prompt": "dull"},
        lambda request: {"true_cfg_scale": request.guidance_scale, "negative_prompt": request.negative_prompt},
    ),
    "pixart-sigma": Family(
        flow_checkpoints.build_pixart, EULER | {"sampler": "dpmpp_2m", "negative_prompt": "dull"}, as_it_stands
    ),
    "sana": Family(
        flow_checkpoints.build_sana, EULER | {"sampler": "flow_dpmpp_2m", "negative_prompt": "dull"}, as_it_stands
    ),
    "sana-sprint": Family(
        lambda folder: flow_checkpoints.build_sana(folder, sprint=True),
        {"sampler": "scm", "steps": 2, "guidance_scale": 3.0, "intermediate_timesteps": 1.2},
        lambda request: {
            "guidance_scale": request.guidance_scale,
            "use_resolution_binning": False,
            "clean_caption": False,
            **request.extra,
        },
    ),
}

# The one that goes all the way every day, with FLUX in test_transformer_tables.py; the pictures of all families are
# compared in tests/diffusion.
EVERYDAY = ("qwen-image",)


def as_options(settings: dict) -> list[str]:
    return [text for name, value in settings.items() for text in (f"--{name.replace('_', '-')}", str(value))]


@pytest.mark.parametrize(
    "name", [name if name in EVERYDAY else pytest.param(name, marks=pytest.mark.long) for name in FAMILIES]
)
def test_a_family_through_the_command(name, tmp_path, sdbatch_command):
    family = FAMILIES[name]
    folder = family.build(tmp_path / "model")
    table = write_table(tmp_path / "prompts.parquet", {"prompt": PROMPTS, "seed": [7, 8]})
    settings = family.options | {"height": 64, "width": 96}
    # A setting that changes no picture.
    release = ("--release-text-encoders", "on" if name == "flux-dev" else "auto")
    cut = ("--lanes", "2", "--shard-size", "1")
    arguments = (table, tmp_path / "out", "--model", folder, *cut, *release, *as_options(settings))
    sdbatch_command("generate", *arguments)
    rows = metadata(tmp_path / "out")
    assert [row["status"] for row in rows] == ["ok", "ok"]
    reference = flow_references.Reference(folder, family.arguments)
    for row in rows:
        picture = Image.open(io.BytesIO((tmp_path / "out" / row["file_name"]).read_bytes())).convert("RGB")
        common = {name: value for name, value in settings.items() if name in COMMON}
        extra = {name: row[name] for name in settings if name not in COMMON}
        wanted = reference.pixels(Request(row["prompt"], seed=row["seed"], **common, extra=extra))
        assert flow_references.distance(np.asarray(picture), wanted) <= 2
    if name not in EVERYDAY:
        said = sdbatch_command("verify", tmp_path / "out", "--remake", 2).stdout
        assert "2 images made again from their metadata, 0 of them different" in said
        before = content(tmp_path / "out")
        (tmp_path / "out" / "00001_stats.json").unlink()  # what a kill before the shard's last write leaves
        (tmp_path / "out" / rows[1]["file_name"]).unlink()
        sdbatch_command("generate", *arguments)
        assert content(tmp_path / "out") == before


@pytest.fixture(scope="module")
def schnell(tmp_path_factory) -> Path:
    return flow_checkpoints.build_flux(tmp_path_factory.mktemp("models") / "schnell", dev=False)


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        (("--sampler", "euler"), "sampler euler does not work with FLUX.1 schnell, which has: flow_euler,"),
        (("--guidance-rescale", "0.5"), "--guidance-rescale: FLUX.1 schnell does not use it"),
        (("--guidance-scale", "4"), "--guidance-scale: FLUX.1 schnell does not use it"),
        (("--cfg-truncation", "0.5"), "--cfg-truncation: FLUX.1 schnell does not use it"),
        (("--height", "72"), "height must be a multiple of 16, not 72"),
        (("--column", "guidance_scale=dislikes"), "guidance_scale=dislikes: expected one of"),
    ],
)
def test_what_a_family_cannot_use_is_refused_in_the_plan(options, reason, schnell, tmp_path, sdbatch_command):
    table = write_table(tmp_path / "prompts.parquet", {"prompt": ["x"], "dislikes": [2.0]})
    process = sdbatch_command("plan", table, tmp_path / "out", "--model", schnell, *options, status=2)
    assert reason in process.stderr and process.stderr.count("\n") == 1


def test_a_plan_counts_the_calls_that_run_all_blocks(schnell, tmp_path, sdbatch_command):
    table = write_table(tmp_path / "prompts.parquet", {"prompt": ["x", "y"]})
    said = sdbatch_command("plan", table, tmp_path / "out", "--model", schnell, "--deep-cache", "3").stdout
    assert "2 images, 8 calls of the model" in said
    assert "all layers run in a row's first call, then in one of 3 (--deep-cache)" in said


def test_small_text_encoders_stay(tmp_path, sdbatch_command):
    table = write_table(tmp_path / "prompts.parquet", {"prompt": ["x"]})
    process = sdbatch_command("plan", table, tmp_path / "out", "--release-text-encoders", "on", status=2)
    assert "release-text-encoders does not work with" in process.stderr and process.stderr.count("\n") == 1


def test_a_column_that_a_family_cannot_use_is_carried(schnell, tmp_path, stand_in_command):
    columns = {"prompt": ["x", "y"], "guidance_rescale": [0.5, None], "cfg": [4.0, 9.0]}
    table = write_table(tmp_path / "prompts.parquet", columns)
    arguments = (table, tmp_path / "out", "--model", schnell, "--lanes", "2")
    said = stand_in_command("plan", *arguments).stdout
    assert "column 'guidance_rescale'" in said and "column 'cfg'" in said and "FLUX.1 schnell does not use it" in said
    size = ("--height", "64", "--width", "64", "--shard-size", "1")
    stand_in_command("generate", *arguments, *size)
    rows = metadata(tmp_path / "out")
    assert [row["input_guidance_rescale"] for row in rows] == [0.5, None]
    assert [(row["steps"], row["guidance_scale"]) for row in rows] == [(4, 1.0), (4, 1.0)]
    assert [row["cfg"] for row in rows] == [4.0, 9.0]
    # A resumed run reads the table in the same way.
    (tmp_path / "out" / "00001_stats.json").unlink()
    stand_in_command("generate", *arguments, *size)
    assert metadata(tmp_path / "out") == rows
